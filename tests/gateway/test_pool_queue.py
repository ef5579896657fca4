"""Who waits for a sandbox of a pool, in which order, and who is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from harness.errors import GuestDied, GuestTimeout, Overloaded
from harness.gateway.errors import as_http
from harness.gateway.fleets.pool_queue import HOPELESS_S, SPREAD, PoolQueue
from harness.sandbox.pool import Drained, Pool
from harness.sandbox.protocol import Sandbox
from tests.host.fake_launcher import FakeLauncher, fake
from tests.host.processes import eventually


@pytest.fixture
def launcher() -> FakeLauncher:
    return FakeLauncher()


@pytest.fixture
def pool(launcher: FakeLauncher) -> Iterator[Pool[Sandbox]]:
    with Pool(launcher, 1, workers=1) as pool:
        pool.fill()
        yield pool


def test_who_would_wait_too_long_is_refused_and_told_when_to_return(
    launcher: FakeLauncher, pool: Pool[Sandbox]
) -> None:
    queue = PoolQueue(pool)

    async def ask() -> None:
        launcher.gate.clear()
        await queue.take("own", 60)  # the one that is ready
        pool._rate._launch_s = HOPELESS_S * 0.8
        waiting = asyncio.create_task(queue.take("own", 60))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="1 callers wait") as refused:
            await queue.take("own", 60)
        error = as_http(refused.value)
        assert (error.status, error.headers()["Should-Retry"]) == (429, "true")
        assert 1 <= int(error.headers()["Retry-After"]) <= 2 * HOPELESS_S
        launcher.gate.set()
        assert fake(await waiting) in launcher.made
        await queue.take("own", 60)  # no caller waits any more

    asyncio.run(ask())
    pool.drain()
    queue.close()


def test_callers_are_served_in_order_and_launched_for(
    launcher: FakeLauncher, pool: Pool[Sandbox]
) -> None:
    queue = PoolQueue(pool)
    order: list[int] = []

    async def take(number: int) -> None:
        await queue.take("own", 60)
        order.append(number)

    async def ask() -> None:
        launcher.gate.clear()
        await queue.take("own", 60)
        waiting = [asyncio.create_task(take(number)) for number in range(3)]
        await asyncio.sleep(0)
        assert (pool.expected, pool.ready + pool.under_way) == (3, 4)
        waiting.append(asyncio.create_task(take(3)))
        await asyncio.sleep(0)  # it waits too, before any of the others is served
        launcher.gate.set()
        await asyncio.gather(*waiting)

    asyncio.run(ask())
    assert order == [0, 1, 2, 3]
    eventually(lambda: pool.expected == 0 and pool.ready == 1)
    pool.drain()
    queue.close()


def test_a_caller_who_leaves_is_no_longer_expected(
    launcher: FakeLauncher, pool: Pool[Sandbox]
) -> None:
    queue = PoolQueue(pool)

    async def ask() -> None:
        launcher.gate.clear()
        await queue.take("own", 60)
        waiting = [asyncio.create_task(queue.take("own", 60)) for _ in range(3)]
        await asyncio.sleep(0)
        for each in waiting:
            each.cancel()
        await asyncio.wait(waiting)
        launcher.gate.set()

    asyncio.run(ask())
    eventually(lambda: pool.expected == 0 and pool.ready == 1)
    pool.drain()
    queue.close()


def test_keys_take_turns_and_each_is_served_in_order(
    launcher: FakeLauncher, pool: Pool[Sandbox]
) -> None:
    """A caller does not wait behind all that another key asked for before."""
    queue = PoolQueue(pool)
    order: list[str] = []

    async def take(key: str, number: int) -> None:
        await queue.take(key, 60)
        order.append(f"{key}{number}")

    async def ask() -> None:
        launcher.gate.clear()
        await queue.take("a", 60)
        asked = [("a", number) for number in range(5)] + [("b", 0), ("b", 1), ("c", 0)]
        waiting = [asyncio.create_task(take(*each)) for each in asked]
        await asyncio.sleep(0)
        launcher.gate.set()
        await asyncio.gather(*waiting)

    asyncio.run(ask())
    assert order == ["a0", "b0", "c0", "a1", "b1", "a2", "a3", "a4"]
    eventually(lambda: pool.expected == 0 and pool.ready == 1)
    pool.drain()
    queue.close()


def test_what_is_ready_goes_to_those_who_wait_already(
    launcher: FakeLauncher, pool: Pool[Sandbox]
) -> None:
    queue = PoolQueue(pool)
    order: list[str] = []

    async def take(key: str) -> None:
        await queue.take(key, 60)
        order.append(key)

    async def ask() -> None:
        launcher.gate.clear()
        held = await queue.take("a", 60)
        first = asyncio.create_task(take("a"))
        await asyncio.sleep(0)
        with pool._change:  # the queue's thread cannot come first
            pool._ready.append(held)
            second = asyncio.create_task(take("b"))
            await asyncio.sleep(0)
            assert (pool.expected, pool.ready, order) == (2, 1, [])
            pool._change.notify_all()
        launcher.gate.set()
        await asyncio.gather(first, second)

    asyncio.run(ask())
    assert order == ["a", "b"]
    pool.drain()
    queue.close()


def test_who_is_refused_depends_on_how_many_of_its_key_wait(
    launcher: FakeLauncher, pool: Pool[Sandbox]
) -> None:
    queue = PoolQueue(pool)

    async def ask() -> None:
        launcher.gate.clear()
        await queue.take("a", 60)
        pool._rate._launch_s = HOPELESS_S * 0.3
        waiting = [asyncio.create_task(queue.take("a", 60)) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="3 callers wait"):
            await queue.take("a", 60)
        waiting.append(asyncio.create_task(queue.take("b", 60)))
        await asyncio.sleep(0)
        launcher.gate.set()
        await asyncio.gather(*waiting)

    asyncio.run(ask())
    pool.drain()
    queue.close()


def test_those_who_are_refused_do_not_all_return_at_once(
    launcher: FakeLauncher, pool: Pool[Sandbox]
) -> None:
    queue = PoolQueue(pool)
    told: list[float] = []

    async def ask() -> None:
        launcher.gate.clear()
        await queue.take("a", 60)
        pool._rate._launch_s = 2 * HOPELESS_S
        for _ in range(50):
            with pytest.raises(Overloaded) as refused:
                await queue.take("a", 60)
            told.append(refused.value.retry_after_s)
        launcher.gate.set()

    asyncio.run(ask())
    soonest = 1.5 * HOPELESS_S
    assert soonest <= min(told) < max(told) <= soonest * (1 + SPREAD)
    pool.drain()
    queue.close()


def test_those_who_leave_cost_the_others_no_turn(
    launcher: FakeLauncher, pool: Pool[Sandbox]
) -> None:
    queue = PoolQueue(pool)
    order: list[str] = []

    async def take(key: str, number: int) -> None:
        await queue.take(key, 60)
        order.append(f"{key}{number}")

    async def ask() -> None:
        launcher.gate.clear()
        await queue.take("a", 60)
        asked = [("a", 0), ("a", 1), ("b", 0), ("b", 1), ("c", 0)]
        waiting = {each: asyncio.create_task(take(*each)) for each in asked}
        await asyncio.sleep(0)
        left = [waiting.pop(("a", 0)), waiting.pop(("c", 0))]
        for each in left:
            each.cancel()
        await asyncio.wait(left)
        assert pool.expected == 3
        launcher.gate.set()
        await asyncio.gather(*waiting.values())

    asyncio.run(ask())
    assert order == ["a1", "b0", "b1"]
    eventually(lambda: pool.expected == 0 and pool.ready == 1)
    pool.drain()
    queue.close()
    assert set(launcher.destroyed) == {1}, "what was put back too"


def test_a_caller_whose_time_is_up_gets_none(launcher: FakeLauncher, pool: Pool[Sandbox]) -> None:
    queue = PoolQueue(pool)

    async def ask() -> None:
        launcher.gate.clear()
        await queue.take("a", 60)
        pool._rate._launch_s = 0.0  # it is not refused
        waiting = asyncio.create_task(queue.take("a", 60))
        await asyncio.sleep(0)
        with pytest.raises(GuestTimeout, match="the pool of 1 had no sandbox ready in time"):
            await queue.take("b", 0.01)
        assert pool.expected == 1
        launcher.gate.set()
        await waiting

    asyncio.run(ask())
    eventually(lambda: pool.expected == 0 and pool.ready == 1)
    pool.drain()
    queue.close()


@pytest.mark.parametrize("error", [GuestDied("it went away"), TimeoutError("it hangs")])
def test_what_fails_a_launch_is_told_to_all_who_wait(
    launcher: FakeLauncher, pool: Pool[Sandbox], error: Exception
) -> None:
    queue = PoolQueue(pool)

    async def ask() -> None:
        launcher.gate.clear()
        await queue.take("a", 60)
        launcher.error = error
        waiting = [asyncio.create_task(queue.take(key, 60)) for key in "aab"]
        await asyncio.sleep(0)
        launcher.gate.set()
        failures = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(failure) for failure in failures] == [type(error)] * 3

    asyncio.run(ask())
    pool.drain()
    queue.close()


def test_a_drain_ends_all_waiting(launcher: FakeLauncher, pool: Pool[Sandbox]) -> None:
    queue = PoolQueue(pool)

    async def ask() -> None:
        launcher.gate.clear()
        await queue.take("a", 60)
        waiting = [asyncio.create_task(queue.take(key, 60)) for key in "aabc"]
        await asyncio.sleep(0)
        draining = asyncio.get_running_loop().run_in_executor(None, pool.drain)
        ended = await asyncio.gather(*waiting, return_exceptions=True)
        launcher.gate.set()
        await draining
        assert [type(error) for error in ended] == [Drained] * 4

    asyncio.run(ask())
    queue.close()
    assert pool.expected == 0


def test_a_pool_of_none_launches_for_a_caller_who_left_no_more_than_once(
    launcher: FakeLauncher,
) -> None:
    with Pool(launcher, 0, workers=1) as pool:
        queue = PoolQueue(pool)

        async def ask() -> None:
            launcher.gate.clear()
            waiting = asyncio.create_task(queue.take("a", 60))
            await asyncio.sleep(0)
            eventually(lambda: pool.awaited == 1)
            waiting.cancel()
            await asyncio.wait([waiting])
            launcher.gate.set()

        asyncio.run(ask())
        eventually(lambda: launcher.destroyed == [1] and not pool.awaited)
        assert (pool.expected, pool.under_way, launcher.calls) == (0, 0, 1)
    queue.close()

"""Who waits for a sandbox of a pool, in which order, and who is refused."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from harness.errors import Overloaded
from harness.gateway.errors import as_http
from harness.gateway.fleets.pool_queue import HOPELESS_S, PoolQueue
from harness.sandbox.pool import Pool
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
        await queue.take(60)  # the one that is ready
        launcher.gate.clear()
        pool._launch_s = HOPELESS_S * 0.8
        waiting = asyncio.create_task(queue.take(60))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="1 callers wait") as refused:
            await queue.take(60)
        error = as_http(refused.value)
        assert (error.status, error.headers()["Should-Retry"]) == (429, "true")
        assert 1 <= int(error.headers()["Retry-After"]) <= 2 * HOPELESS_S
        launcher.gate.set()
        assert fake(await waiting) in launcher.made
        await queue.take(60)  # no caller waits any more

    asyncio.run(ask())
    pool.drain()
    queue.close()


def test_callers_are_served_in_order_and_launched_for(
    launcher: FakeLauncher, pool: Pool[Sandbox]
) -> None:
    queue = PoolQueue(pool)
    order: list[int] = []

    async def take(number: int) -> None:
        await queue.take(60)
        order.append(number)

    async def ask() -> None:
        await queue.take(60)
        launcher.gate.clear()
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
        await queue.take(60)
        launcher.gate.clear()
        waiting = [asyncio.create_task(queue.take(60)) for _ in range(3)]
        await asyncio.sleep(0)
        for each in waiting:
            each.cancel()
        await asyncio.wait(waiting)
        launcher.gate.set()

    asyncio.run(ask())
    eventually(lambda: pool.expected == 0 and pool.ready == 1)
    pool.drain()
    queue.close()

"""The pool, with fake sandboxes."""

from __future__ import annotations

import threading

import pytest

from harness.errors import GuestDied, GuestTimeout
from harness.sandbox import launch_rate
from harness.sandbox import pool as pools
from harness.sandbox.pool import MAX_FAILURES, Pool
from harness.sandbox.protocol import Sandbox
from tests.host.fake_launcher import FakeLauncher, fake
from tests.host.processes import eventually


def drain(pool: Pool[Sandbox], launcher: FakeLauncher) -> None:
    """Drain the pool during launches, which go on once it is closed."""
    with launcher.opened(lambda: pool._closed):
        pool.drain()


def test_it_fills_to_its_size_and_no_further(launcher: FakeLauncher) -> None:
    with Pool(launcher, 20) as pool:
        pool.fill(3)
        assert (pool.ready, launcher.calls) == (3, 3)
        pool.fill()
        pool.fill()
        assert (pool.ready, launcher.calls) == (20, 20)
    assert launcher.destroyed == [1] * 20


def test_a_returned_sandbox_is_destroyed_and_never_handed_out_again(
    launcher: FakeLauncher,
) -> None:
    with Pool(launcher, 2, refill=False) as pool:
        pool.fill()
        first = pool.check_out()
        pool.give_back(first)
        assert fake(first).destroyed == 1
        assert pool.check_out() is not first
        with pytest.raises(GuestTimeout, match="empty and does not refill"):
            pool.check_out(1)
    assert launcher.destroyed == [1, 1]


def test_it_refills_in_the_background(launcher: FakeLauncher) -> None:
    with Pool(launcher, 2) as pool:
        pool.fill()
        launcher.gate.clear()
        pool.check_out()  # does not wait for the replacement, which waits for us
        assert pool.ready == 1
        launcher.gate.set()
        eventually(lambda: pool.ready == 2)
    assert launcher.destroyed == [1] * 3


def test_a_check_out_waits_for_the_refill(launcher: FakeLauncher) -> None:
    launcher.gate.clear()
    with Pool(launcher, 1) as pool:
        with launcher.opened(lambda: pool.awaited == 1):
            assert fake(pool.check_out()) in launcher.made
        assert pool.awaited == 0


def test_a_check_out_has_a_time_limit(launcher: FakeLauncher) -> None:
    launcher.gate.clear()
    with Pool(launcher, 4) as pool:
        with pytest.raises(GuestTimeout, match="the pool of 4 had no sandbox ready in time"):
            pool.check_out(0.1)
        launcher.gate.set()
    assert all(count == 1 for count in launcher.destroyed)


def test_draining_destroys_what_is_ready_and_what_is_out(launcher: FakeLauncher) -> None:
    pool = Pool(launcher, 3)
    pool.fill()
    pool.check_out()
    pool.drain()
    assert pool.ready == 0
    assert set(launcher.destroyed) == {1}
    calls = launcher.calls
    with pytest.raises(GuestTimeout, match="was drained"):
        pool.check_out(5)
    assert launcher.calls == calls


def test_a_sandbox_that_cannot_be_destroyed_keeps_no_other(launcher: FakeLauncher) -> None:
    pool = Pool(launcher, 4)
    pool.fill()
    sandboxes = list(pool._ready)

    def fails() -> None:
        raise GuestTimeout("it does not end")

    for sandbox in (sandboxes[0], sandboxes[2]):
        sandbox.destroy = fails  # type: ignore[method-assign]
    with pytest.raises(GuestTimeout, match="it does not end"):
        pool.drain()
    assert sorted(launcher.destroyed) == [0, 0, 1, 1] and pool.ready == 0


def test_draining_waits_for_launches_and_destroys_their_sandboxes(launcher: FakeLauncher) -> None:
    launcher.gate.clear()
    pool = Pool(launcher, 12)
    ended: list[Exception] = []

    def fill() -> None:
        try:
            pool.fill()
        except GuestTimeout as error:
            ended.append(error)

    filling = threading.Thread(target=fill)
    filling.start()
    eventually(lambda: launcher.calls == pools.WORKERS)
    drain(pool, launcher)
    filling.join()
    assert len(ended) == 1 and "was drained" in str(ended[0])
    assert launcher.calls == pools.WORKERS, "launches that had not begun never begin"
    assert launcher.destroyed == [1] * pools.WORKERS
    assert pool.ready == 0


def test_a_drain_ends_a_waiting_check_out(launcher: FakeLauncher) -> None:
    launcher.gate.clear()
    pool = Pool(launcher, 1)
    ended: list[Exception] = []

    def wait() -> None:
        try:
            pool.check_out(60)
        except GuestTimeout as error:
            ended.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    eventually(lambda: launcher.calls == 1)
    drain(pool, launcher)
    waiting.join()
    assert len(ended) == 1 and "was drained" in str(ended[0])


@pytest.mark.parametrize("error", [GuestDied("it went away"), OSError("no more handles")])
def test_fill_raises_the_error_of_a_launch(launcher: FakeLauncher, error: Exception) -> None:
    launcher.error = error
    with Pool(launcher, 2) as pool, pytest.raises(type(error), match=str(error)):
        pool.fill()


@pytest.mark.parametrize("error", [GuestDied("it went away"), OSError("no more handles")])
def test_repeated_failures_of_launches_end_a_check_out(
    launcher: FakeLauncher, error: Exception
) -> None:
    launcher.error = error
    with Pool(launcher, 2) as pool:
        with pytest.raises(type(error), match=str(error)):
            pool.check_out(30)
        assert launcher.calls == MAX_FAILURES


def test_failures_between_successes_do_not_end_it(launcher: FakeLauncher) -> None:
    """Only failures in a row end a check-out: two, a success, and two more are not four."""
    few = [GuestDied("now and then")] * (MAX_FAILURES - 1)
    launcher.outcomes = [*few, None, *few, None, *few, None]
    with Pool(launcher, 1) as pool:
        for _ in range(3):
            pool.give_back(pool.check_out(30))
        assert launcher.outcomes == []


def test_what_is_raised_is_the_last_failure(launcher: FakeLauncher) -> None:
    several = [GuestDied(f"number {count}") for count in range(MAX_FAILURES)]
    launcher.outcomes = [*several]
    with Pool(launcher, 1) as pool:
        with pytest.raises(GuestDied, match=f"number {MAX_FAILURES - 1}"):
            pool.check_out(30)
        launcher.outcomes = [GuestDied("of a fill")]
        with pytest.raises(GuestDied, match="of a fill"):
            pool.fill()


def test_what_is_under_way_counts_when_a_pool_is_filled(launcher: FakeLauncher) -> None:
    with Pool(launcher, 3) as pool:
        pool.fill(1)
        launcher.gate.clear()
        pool.check_out()
        with launcher.opened(lambda: launcher.calls == 4):
            pool.fill()
        assert (pool.ready, launcher.calls) == (3, 4)


def test_a_drained_pool_is_not_filled_again(launcher: FakeLauncher) -> None:
    pool = Pool(launcher, 2)
    pool.drain()
    with pytest.raises(GuestTimeout, match="was drained"):
        pool.fill()
    assert launcher.calls == 0


def test_a_check_out_after_failures_tries_again(launcher: FakeLauncher) -> None:
    """Who asks later is not told what failed for others: the host may have memory again."""
    launcher.error = GuestDied("for want of something")
    with Pool(launcher, 1) as pool:
        for times in (1, 2):
            with pytest.raises(GuestDied):
                pool.check_out(30)
            assert launcher.calls == times * MAX_FAILURES
        launcher.error = None
        assert fake(pool.check_out(30)) in launcher.made


def test_what_is_put_back_is_the_next_to_be_handed_out(launcher: FakeLauncher) -> None:
    """It has been rehearsed, and its memory is as warm as any: the others were made before it."""
    with Pool(launcher, 3, refill=False) as pool:
        pool.fill()
        first, second = pool.check_out(), pool.check_out()
        pool.put_back(first)
        assert (pool.ready, pool.check_out()) == (2, first)
        pool.put_back(second)
        assert pool.check_out_now() is second
        pool.put_back(second)
        assert not any(launcher.destroyed)
    assert launcher.destroyed == [1] * 3


def test_abandoned_check_outs_do_not_grow_a_pool(launcher: FakeLauncher) -> None:
    """A check-out starts a launch; what is put back meanwhile must not come on top of it."""
    with Pool(launcher, 2) as pool:
        pool.fill()
        for _ in range(4):
            pool.put_back(pool.check_out())
        eventually(lambda: pool.under_way == 0)
        assert pool.ready == 2
        assert sum(not count for count in launcher.destroyed) == 2
    assert set(launcher.destroyed) == {1}


def test_a_launch_that_is_no_longer_needed_is_not_begun(launcher: FakeLauncher) -> None:
    size = pools.WORKERS + 2
    with Pool(launcher, size) as pool:
        pool.fill()
        launcher.gate.clear()
        taken = [pool.check_out() for _ in range(size)]
        eventually(lambda: launcher.calls == size + pools.WORKERS)
        for sandbox in taken:
            pool.put_back(sandbox)
        launcher.gate.set()
        eventually(lambda: pool.under_way == 0)
        assert (pool.ready, launcher.calls) == (size, size + pools.WORKERS)
        assert sum(not count for count in launcher.destroyed) == size


def test_what_is_put_back_too_late_is_destroyed(launcher: FakeLauncher) -> None:
    with Pool(launcher, 1) as pool:
        pool.fill()
        first = pool.check_out()
        eventually(lambda: pool.ready == 1)  # its replacement
        pool.put_back(first)
        eventually(lambda: fake(first).destroyed == 1)
        assert pool.ready == 1 and pool.check_out_now() is not first


def test_a_pool_that_does_not_lend_forgets_what_is_out(launcher: FakeLauncher) -> None:
    pool = Pool(launcher, 1, lends=False)
    pool.fill()
    taken = pool.check_out()
    assert not pool._out
    pool.drain()
    assert fake(taken).destroyed == 0
    assert sorted(launcher.destroyed) == [0, *[1] * (len(launcher.made) - 1)]


def test_what_is_put_back_is_had_by_who_waits(launcher: FakeLauncher) -> None:
    with Pool(launcher, 1) as pool:
        pool.fill()
        launcher.gate.clear()
        first = pool.check_out()
        got: list[Sandbox] = []
        waiting = threading.Thread(target=lambda: got.append(pool.check_out(30)))
        waiting.start()
        eventually(lambda: pool.awaited == 1)
        pool.put_back(first)
        waiting.join(20)
        assert got == [first], "it does not wait for the launch"
        launcher.gate.set()
        waiting.join()


def test_what_is_ready_is_had_at_once_or_not_at_all(launcher: FakeLauncher) -> None:
    with Pool(launcher, 2) as pool:
        assert pool.check_out_now() is None and launcher.calls == 0
        pool.fill()
        launcher.gate.clear()
        got = [pool.check_out_now(), pool.check_out_now()]
        # Both were launched at once: which was ready first does not matter.
        assert {fake(sandbox) for sandbox in got if sandbox} == set(launcher.made)
        assert pool.check_out_now() is None
        launcher.gate.set()
        eventually(lambda: pool.ready == 2)
    assert launcher.destroyed == [1] * 4, "those that were out as well"


def test_it_launches_beyond_its_size_for_those_who_are_expected(launcher: FakeLauncher) -> None:
    with Pool(launcher, 1) as pool:
        pool.fill()
        launcher.gate.clear()
        pool.expect(3)
        eventually(lambda: launcher.calls == 4)
        launcher.gate.set()
        eventually(lambda: pool.ready == 4)
        for _ in range(3):
            pool.check_out()
            pool.expect(-1)
        eventually(lambda: not pool.under_way)
        assert pool.ready == 1, "nothing is replaced beyond its size"


def test_a_launch_waits_for_what_is_more_urgent(launcher: FakeLauncher) -> None:
    calm = threading.Event()
    with Pool(launcher, 1, before=lambda: calm.wait(60)) as pool:
        filling = threading.Thread(target=pool.fill)
        filling.start()
        eventually(lambda: pool.under_way == 1)
        assert launcher.calls == 0
        calm.set()
        filling.join()
        assert launcher.calls == 1


def test_the_expected_wait_grows_with_the_queue(
    launcher: FakeLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch_rate, "usable", lambda: 2)
    with Pool(launcher, 1, workers=2) as pool:
        assert pool.expected_wait_s() == 0.0, "nothing is known yet"
        pool.fill()
        pool._rate._launch_s = 3.0
        assert pool.expected_wait_s() == 0.0, "one is ready"
        launcher.gate.clear()
        pool.check_out()
        assert pool.expected_wait_s() == pytest.approx(1.5)
        pool.expect(3)
        assert pool.expected_wait_s() == pytest.approx(6.0)
        assert pool.expected_wait_s(ahead=1) == pytest.approx(3.0)
        launcher.gate.set()


def test_the_rate_is_that_of_launches_that_occupy_all_workers(
    launcher: FakeLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy: list[bool] = []
    interrupted: list[bool] = []
    calm = [False]
    with Pool(launcher, 1, workers=1, before=lambda: not calm[0]) as pool:
        monkeypatch.setattr(pool._rate, "note", lambda *_, **note: busy.append(note["busy"]))
        monkeypatch.setattr(pool._rate, "interrupted", lambda: interrupted.append(True))
        pool.fill()
        assert (busy, interrupted) == ([False], [True])
        calm[0] = True
        launcher.gate.clear()
        pool.expect(3)
        launcher.gate.set()
        eventually(lambda: not pool.under_way)
        assert (busy[1:], interrupted) == ([True, True, False], [True])

"""A storm on a substrate: every sandbox is used, held, asked again and ended, whatever fails."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import cast

import pytest

from harness.errors import GuestDied, GuestTimeout, NotEnoughMemory, SandboxError
from harness.guest.agent_client import Finished
from harness.host.identity import Identity, allocate
from harness.host.run import Run
from harness.load import generator
from harness.load.arrivals import Schedule, burst, constant
from harness.load.capacity import growth
from harness.load.generator import USABLE, Outcome
from harness.measure.collector import Collector
from harness.measure.record import Series
from harness.procedures import run_objects, storm_series
from harness.procedures.storm import Lives, Source, of_kind, threads
from harness.procedures.storm import run as run_storm
from harness.procedures.unrehearsed import Programs
from harness.sandbox.noop import NoopSandbox, NoopSubstrate, NoopTemplate
from harness.sandbox.protocol import Sharing, Substrate, Template, Tier

TIER = Tier.DURABLE_PREWARM_POOL


@pytest.fixture(autouse=True)
def what_all_sandboxes_share(run: Run) -> None:
    """Made with the first identity of a run, and no leak."""
    allocate(run.leases, run.id).release()


class Odd(NoopSandbox):
    """Does what a test says when it is asked; `asked` counts how often."""

    behaviour: Callable[[int, int], object] = staticmethod(lambda number, asked: None)
    count = 0

    def __init__(self, identity: Identity) -> None:
        super().__init__(identity)
        self.number, self.asked = type(self).count, 0
        type(self).count += 1

    def awaken(self, timeout_s: float) -> float:
        self.asked += 1
        type(self).behaviour(self.number, self.asked)
        return super().awaken(timeout_s)


class Made(NoopSubstrate):
    """Its sandboxes are what a function makes of their identities."""

    def __init__(self, sandbox: Callable[[Identity], NoopSandbox]) -> None:
        self._sandbox = sandbox

    def launch(
        self,
        run: Run,
        template: NoopTemplate,
        tier: Tier,
        identity: Identity,
        sharing: Sharing = Sharing.MAPPED,
        tap: int | None = None,
    ) -> NoopSandbox:
        return self._sandbox(identity)


def source_of(
    run: Run, sandbox: Callable[[Identity], NoopSandbox], stack: ExitStack, pool: int = 0
) -> Source:
    substrate = cast(Substrate[Template], Made(sandbox))
    return Source(run, substrate, NoopTemplate(), TIER, stack, pool)


def storm(
    run: Run,
    schedule: Schedule,
    sandbox: Callable[[Identity], NoopSandbox] = NoopSandbox,
    *,
    hold: bool = False,
    pool: int = 0,
) -> Outcome:
    with ExitStack() as stack:
        source = source_of(run, sandbox, stack, pool)
        source.ready()
        lives = Lives(source, threads(40, stack), Programs(None), own_kernel=False, hold=hold)
        outcome, shortfalls = generator.on_fresh_loop(
            run_storm(schedule, lives, source, len(schedule))
        )
    assert all(0 <= lacking <= pool for lacking in shortfalls)
    return outcome


def series_of(outcome: Outcome) -> dict[str, Series]:
    into = Collector("open")
    storm_series.add(outcome, into, of_kind)
    return {series.metric: series for series in into.series}


@pytest.mark.parametrize("pool", [0, 3])
def test_a_storm_is_measured_and_leaves_nothing(run: Run, pool: int) -> None:
    before = run_objects.objects(run)
    found = series_of(storm(run, constant(200, 30), pool=pool))
    for rung in ("object", "first-reply", USABLE):
        assert len(found[rung].samples) == 30
        assert not found[rung].failures
    assert len(found["teardown"].samples) == 30
    assert found["refused"].samples == found["failed"].samples == [0]
    assert sum(found["ready-rate"].samples) == 30
    assert found["last-ready"].samples[0] >= 29 / 200
    assert all(series.loop == "open" for series in found.values())
    assert "alive-again" not in found
    assert run_objects.leaked(run, before) == []


def test_held_sandboxes_are_all_alive_at_once_and_asked_again(run: Run) -> None:
    class Counted(Odd):
        @staticmethod
        def behaviour(number: int, asked: int) -> None:
            if asked == 2:
                assert Counted.count == 12, "asked before all were there"

    found = series_of(storm(run, burst(12, 12), Counted, hold=True))
    assert found["alive-again"].samples == [1.0] * 12
    assert len(found["second-reply"].samples) == 12
    assert len(found["teardown"].samples) == 12


def test_a_sandbox_that_dies_while_it_is_held_is_lost_and_keeps_its_latency(run: Run) -> None:
    class Dying(Odd):
        @staticmethod
        def behaviour(number: int, asked: int) -> None:
            if number == 2 and asked == 2:
                raise GuestDied("its VMM has exited")

    before = run_objects.objects(run)
    found = series_of(storm(run, constant(100, 5), Dying, hold=True))
    assert sorted(found["alive-again"].samples) == [0, 1, 1, 1, 1]
    (lost,) = found["second-reply"].failures
    assert lost.reason == "GuestDied: its VMM has exited"
    assert len(found[USABLE].samples) == 5 and not found[USABLE].failures
    assert run_objects.leaked(run, before) == []


def test_refusals_are_told_from_failures(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_objects, "PATIENCE_S", 0)

    class Failing(Odd):
        @staticmethod
        def behaviour(number: int, asked: int) -> None:
            if number == 0:
                raise GuestTimeout("no answer")

    def full(identity: Identity) -> NoopSandbox:
        if Failing.count == 3:
            raise NotEnoughMemory("this host has no memory for one more sandbox")
        return Failing(identity)

    before = run_objects.objects(run)
    found = series_of(storm(run, constant(20, 4), full))
    assert found["failed"].samples == [1] and found["refused"].samples == [1]
    assert {failure.kind for failure in found[USABLE].failures} == {None, "refused"}
    assert len(found[USABLE].samples) == 2
    # `launch` itself failed, and in this test nothing released its identity.
    assert {left.split()[0] for left in run_objects.leaked(run, before)} == {"lease"}


def test_a_leak_is_counted(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_objects, "PATIENCE_S", 0)
    before = run_objects.objects(run)
    identity = allocate(run.leases, run.id)
    (run.directory / "vm.sock").touch()
    assert [left.split()[0] for left in run_objects.leaked(run, before)] == ["file", "lease"]
    identity.release()
    (run.directory / "vm.sock").unlink()
    assert run_objects.leaked(run, before) == []


def test_what_a_cancelled_storm_has_made_is_ended_even_by_threads_still_at_work(run: Run) -> None:
    """A thread cannot be interrupted: its sandbox is made after the storm has ended."""
    begun, go_on = threading.Event(), threading.Event()
    before = run_objects.objects(run)

    def slow(identity: Identity) -> NoopSandbox:
        begun.set()
        go_on.wait(30)
        return NoopSandbox(identity)

    async def cancelled(lives: Lives) -> None:
        task = asyncio.create_task(generator.run(constant(1, 1), lives))
        await asyncio.to_thread(begun.wait, 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with ExitStack() as stack:
        source = source_of(run, slow, stack)
        executor = threads(2, stack)
        stack.callback(go_on.set)
        generator.on_fresh_loop(cancelled(Lives(source, executor, Programs(None), False)))
    assert run_objects.leaked(run, before) == []


def test_a_wrong_first_answer_is_no_usable_sandbox(run: Run) -> None:
    class Lying(NoopSandbox):
        def first_exec(self, word: str) -> Finished:
            return Finished(0, 0, b"something else\n", b"")

    found = series_of(storm(run, constant(50, 2), Lying))
    assert not found[USABLE].samples
    assert all("WrongAnswer" in failure.reason for failure in found[USABLE].failures)


def test_a_pool_that_is_drawn_down_shows_it(run: Run) -> None:
    """No request waits: the stock alone shows that more was taken than made."""

    def slow(identity: Identity) -> NoopSandbox:
        if taking.is_set():
            done.wait(30)
        return NoopSandbox(identity)

    taking, done = threading.Event(), threading.Event()
    with ExitStack() as stack:
        source = source_of(run, slow, stack, pool=40)
        source.ready()
        stack.callback(done.set)
        taking.set()
        lives = Lives(source, threads(4, stack), Programs(None), own_kernel=False)
        outcome, shortfalls = generator.on_fresh_loop(
            run_storm(constant(20, 30), lives, source, 140)
        )
    assert not any(result.reason for result in outcome.results)
    grew = growth(shortfalls)
    assert grew and grew[1] > 15


def test_a_sandbox_that_does_not_end_is_a_failure_of_its_end(run: Run) -> None:
    class Clinging(Odd):
        def destroy(self) -> None:
            super().destroy()
            if self.number == 1:
                raise SandboxError("its group could not be removed")

    found = series_of(storm(run, constant(50, 3), Clinging))
    assert len(found[USABLE].samples) == 3 and not found[USABLE].failures
    assert len(found["teardown"].samples) == 2
    (failure,) = found["teardown"].failures
    assert failure.reason == "SandboxError: its group could not be removed"
    assert found["failed"].samples == [1]


def test_a_sandbox_on_this_hosts_kernel_has_no_figures_where_it_should_have_its_own(
    run: Run,
) -> None:
    """`noop` has no guest that could prove its kernel."""
    with ExitStack() as stack:
        source = source_of(run, NoopSandbox, stack)
        lives = Lives(source, threads(4, stack), Programs(None), own_kernel=True)
        outcome, _ = generator.on_fresh_loop(run_storm(constant(50, 2), lives, source, 140))
    found = series_of(outcome)
    assert not found[USABLE].samples
    assert all("no guest" in failure.reason for failure in found[USABLE].failures)

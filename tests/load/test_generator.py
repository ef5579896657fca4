"""Every arrival is sent when it is due, counted from then, and never left out."""

from __future__ import annotations

import asyncio
import os
import socket
import time

import pytest

from harness.errors import GuestTimeout, SandboxError
from harness.load import arrivals, self_watch
from harness.load.arrivals import Arrival, Schedule
from harness.load.generator import USABLE, Attempt, Outcome, on_fresh_loop, run
from harness.load.self_watch import Reading, saturated


def test_a_slow_system_gets_the_same_load_and_no_arrival_waits_for_another() -> None:
    """Each life takes far longer than the gap; a closed loop would need 20 times as long."""
    alive = most = 0

    async def slow(attempt: Attempt) -> None:
        nonlocal alive, most
        alive += 1
        most = max(most, alive)
        await asyncio.sleep(0.5)
        alive -= 1
        attempt.mark(USABLE)

    outcome = on_fresh_loop(run(arrivals.constant(100, 20), slow))
    assert most > 10
    assert [result.index for result in outcome.results] == list(range(20))
    assert all(result.marks[USABLE] >= 0.499 for result in outcome.results)


def test_a_latency_counts_from_the_moment_at_which_the_request_was_due() -> None:
    """The event loop is blocked while requests become due."""

    async def blocking(attempt: Attempt) -> None:
        if attempt.index == 0:
            time.sleep(0.3)
        attempt.mark(USABLE)

    outcome = on_fresh_loop(run(arrivals.constant(100, 5), blocking))
    second = outcome.results[1]
    assert second.lateness_s is not None and second.lateness_s > 0.25
    assert second.marks[USABLE] >= second.lateness_s
    assert second.settled_s == second.marks[USABLE]
    assert any("dispatch lateness p99" in reason for reason in outcome.saturated)


def test_no_arrival_is_sent_before_it_is_due() -> None:
    async def nothing(attempt: Attempt) -> None:
        attempt.mark(USABLE)

    outcome = on_fresh_loop(run(arrivals.poisson(400, 200, 2), nothing))
    assert len(outcome.lateness) == 200
    assert min(outcome.lateness) >= 0


def test_failures_keep_their_reason_their_kind_and_the_marks_before_them() -> None:
    async def failing(attempt: Attempt) -> None:
        attempt.mark("create-headers")
        if attempt.index == 0:
            raise GuestTimeout("no answer")
        if attempt.index == 1:
            raise ConnectionResetError("reset by peer")
        attempt.mark(USABLE)

    outcome = on_fresh_loop(
        run(
            arrivals.constant(1000, 3),
            failing,
            kind_of=lambda error: "refused" if isinstance(error, OSError) else None,
        )
    )
    first, second, third = outcome.results
    assert (first.reason, first.kind) == ("GuestTimeout: no answer", None)
    assert (second.reason, second.kind) == ("ConnectionResetError: reset by peer", "refused")
    assert (third.reason, third.kind) == (None, None)
    assert "create-headers" in first.marks and USABLE not in first.marks


def test_beyond_the_limit_an_arrival_is_refused_by_the_generator_and_the_record_is_suspect() -> (
    None
):
    async def slow(attempt: Attempt) -> None:
        await asyncio.sleep(0.2)
        attempt.mark(USABLE)

    outcome = on_fresh_loop(run(arrivals.burst(5, 5), slow, limit=3))
    refused = [result for result in outcome.results if result.kind == "refused"]
    assert [result.index for result in refused] == [3, 4]
    assert all("the generator's own limit: 3" in str(result.reason) for result in refused)
    assert outcome.beyond_limit == 2
    assert any("2 arrivals came while 3" in reason for reason in outcome.saturated)


def test_sandboxes_can_be_held_until_all_are_usable_or_have_failed() -> None:
    held: list[int] = []

    async def holding(attempt: Attempt) -> None:
        if attempt.index == 2:
            raise SandboxError("it did not start")
        await asyncio.sleep(0.05 * attempt.index)
        attempt.mark(USABLE)
        held.append(attempt.index)
        await attempt.all_settled()
        assert sorted(held) == [0, 1, 3]
        attempt.mark("alive-again")

    outcome = on_fresh_loop(run(arrivals.constant(100, 4), holding))
    assert sum("alive-again" in result.marks for result in outcome.results) == 3


def test_a_defect_ends_the_run_after_every_life_has_cleaned_up() -> None:
    ended: list[int] = []

    async def broken(attempt: Attempt) -> None:
        try:
            if attempt.index == 3:
                raise ZeroDivisionError
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            ended.append(attempt.index)

    with pytest.raises(ZeroDivisionError):
        on_fresh_loop(run(arrivals.burst(4, 400), broken))
    assert sorted(ended) == [0, 1, 2, 3]


def test_a_cancelled_run_has_ended_every_life() -> None:
    begun, ended = asyncio.Event(), list[int]()

    async def lasting(attempt: Attempt) -> None:
        try:
            if attempt.index == 2:
                begun.set()
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.01)
            ended.append(attempt.index)

    async def cancelled() -> None:
        schedule = Schedule("trace", 1, (Arrival(0), Arrival(0), Arrival(0), Arrival(3600)))
        task = asyncio.create_task(run(schedule, lasting))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert asyncio.all_tasks() == {asyncio.current_task()}

    on_fresh_loop(cancelled())
    assert sorted(ended) == [0, 1, 2]


def test_the_generator_watches_itself() -> None:
    """A blocked event loop, sockets and processor time are seen, and named as reasons."""
    pairs: list[socket.socket] = []

    async def busy(attempt: Attempt) -> None:
        pairs.extend(socket.socketpair())
        spent = time.process_time()
        while time.process_time() - spent < 0.25:
            pass
        attempt.mark(USABLE)

    outcome: Outcome = on_fresh_loop(run(arrivals.constant(4, 3), busy))
    try:
        assert outcome.readings
        assert max(reading.loop_delay_s for reading in outcome.readings) > 0.04
        assert max(reading.processor_share for reading in outcome.readings) > 0.02
        sockets, descriptors = self_watch.open_descriptors()
        assert sockets >= 6 and descriptors > sockets
        assert max(reading.sockets for reading in outcome.readings) >= 2
    finally:
        for each in pairs:
            each.close()


def test_descriptors_are_counted_as_they_come_and_go() -> None:
    before = self_watch.open_descriptors()
    made = os.open(os.devnull, os.O_RDONLY)
    with socket.socket():
        assert self_watch.open_descriptors() == (before[0] + 1, before[1] + 2)
    os.close(made)
    assert self_watch.open_descriptors() == before


def test_a_generator_that_keeps_its_schedule_has_no_reason_for_doubt() -> None:
    reading = Reading(0.2, 0.001, 0.3, 5, 20)
    assert saturated([0.001] * 500, [reading] * 10) == []
    assert saturated([], []) == []


@pytest.mark.parametrize(
    ("lateness", "reading", "reason"),
    [
        (0.006, Reading(0.2, 0.001, 0.3, 5, 20), "dispatch lateness p99 6.0 ms exceeds 5 ms"),
        (0.001, Reading(0.2, 0.09, 0.3, 5, 20), "event loop p95 90 ms late"),
        (0.001, Reading(0.2, 0.001, 0.99, 5, 20), "its process took 99% of one processor"),
    ],
)
def test_each_kind_of_saturation_is_named(lateness: float, reading: Reading, reason: str) -> None:
    (told,) = saturated([lateness] * 500, [reading] * 10)
    assert told.startswith(f"generator saturated: {reason}")

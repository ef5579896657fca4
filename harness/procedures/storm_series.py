"""The series of a storm, of sandboxes below the API or behind it.

A life marks the moments that it passes (`Attempt.mark`). Every mark becomes a series of seconds
since the request was due, but for the pairs below, which become durations.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from harness.load.capacity import queue_lengths
from harness.load.generator import USABLE, Outcome, Result
from harness.load.self_watch import Reading
from harness.measure.collector import Collector
from harness.measure.record import Scalar, Series

THREAD = "thread"
"""A thread of this process began with the request."""
ASKED_AGAIN, ALIVE_AGAIN = "asked-again", "alive-again"
"""The second liveness check: a fresh nonce is sent, its answer was right."""
ENDING, ENDED = "ending", "ended"
"""The sandbox is told to end, and is gone."""

STOPS: Mapping[str, str] = MappingProxyType(
    {
        USABLE: "the first command inside has returned its output",
        "lateness": "the request was sent: the generator's own delay",
        "queue": "a count, over time: requests that were due, and neither usable nor failed",
        "pool-shortfall": "a count, over time: sandboxes that the pool lacked",
        "ready-rate": "a count: sandboxes that became usable in a second, for each second",
        "last-ready": "the last sandbox was usable, from the start of the storm",
        "alive-again": "1 where a sandbox that was held has answered a second nonce, 0 where not",
        "second-reply": "the answer to the second nonce, from the question",
        "teardown": "the sandbox is gone, from the moment it was told to end",
        "refused": "a count: requests that were turned away",
        "failed": "a count: requests that failed in any other way",
        "lost": "a count: requests whose generator was lost",
        "leaked": "a count: what carries the run's id afterwards and did not before",
        "generator-loop-delay": "how late a timer of the generator's event loop was, every 200 ms",
        "generator-cpu": "the generator's share of one processor, every 200 ms",
        "generator-sockets": "a count: the generator's open sockets, every 200 ms",
        "generator-descriptors": "a count: the generator's open descriptors, every 200 ms",
        "generator-thread-wait": "a thread of the generator took the request, since it was sent",
    }
)
"""The stop events of these series, for a record's clock, whose start is `START`."""
START = "the moment at which the request was due"
_NOT_RUNGS = frozenset((THREAD, ASKED_AGAIN, ALIVE_AGAIN, ENDING, ENDED))


def add(
    outcome: Outcome,
    into: Collector,
    /,
    of_kind: Callable[[str], Mapping[str, Scalar]] = lambda kind: {},
    **dimensions: Scalar,
) -> None:
    """Add all series of an outcome. `of_kind` returns further dimensions of the rungs of arrivals
    of a kind: they differ in what they waited for."""
    results = outcome.results
    for kind in dict.fromkeys(each.arrival.kind for each in results):
        of_this = [each for each in results if each.arrival.kind == kind]
        own = {**dimensions, **of_kind(kind)}
        for rung in _rungs(of_this):
            into.add(
                rung,
                "s",
                [each.marks[rung] for each in of_this if rung in each.marks],
                [
                    (index, each.reason, each.kind)
                    for index, each in enumerate(of_this)
                    if each.reason and rung not in each.marks
                ],
                **own,
            )
    into.add("queue", "1", queue_lengths(outcome), **dimensions)
    into.add("ready-rate", "1/s", ready_rates(outcome), (), "higher", **dimensions)
    usable = [each.arrival.at_s + each.marks[USABLE] for each in results if USABLE in each.marks]
    into.add("last-ready", "s", [max(usable)] if usable else [], **dimensions)
    refused, lost = (sum(each.kind == kind for each in results) for kind in ("refused", "lost"))
    failed = sum(bool(each.reason) for each in results) - refused - lost
    into.add("refused", "1", [float(refused)], **dimensions)
    into.add("failed", "1", [float(failed)], **dimensions)
    _second_check(results, into, dimensions)
    ended = [each for each in results if ENDED in each.marks]
    into.add(
        "teardown",
        "s",
        [each.marks[ENDED] - each.marks[ENDING] for each in ended],
        [
            (index, each.reason, each.kind)
            for index, each in enumerate(results)
            if each.reason and ENDED not in each.marks and _was_fine(each)
        ],
        **dimensions,
    )
    add_generator(outcome, into, dimensions)


def shown(series: Sequence[Series]) -> Series:
    """The first series of `usable` that has samples: arrivals of one kind may all have failed.
    AssertionError with a reason where nothing became usable."""
    usable = [each for each in series if each.metric == USABLE]
    for each in usable:
        if each.samples:
            return each
    reason = next((each.failures[0].reason for each in usable if each.failures), "none was asked")
    raise AssertionError(f"nothing became usable; the first failure: {reason}")


def _was_fine(result: Result) -> bool:
    """Whether all went well until the sandbox was to end: no other series has its failure."""
    return USABLE in result.marks and (
        ASKED_AGAIN not in result.marks or ALIVE_AGAIN in result.marks
    )


def _rungs(results: Sequence[Result]) -> Sequence[str]:
    """The marks that are rungs, in the order in which they were passed. `usable` is among them
    even where nothing was: its series then holds the reasons."""
    passed = dict.fromkeys(name for each in results for name in each.marks)
    passed.setdefault(USABLE)
    return [name for name in passed if name not in _NOT_RUNGS]


def _second_check(
    results: Sequence[Result], into: Collector, dimensions: Mapping[str, Scalar]
) -> None:
    asked = [each for each in results if ASKED_AGAIN in each.marks]
    answered = [each for each in asked if ALIVE_AGAIN in each.marks]
    into.add("alive-again", "1", [float(ALIVE_AGAIN in each.marks) for each in asked], (), "higher",
             **dimensions)  # fmt: skip
    into.add(
        "second-reply",
        "s",
        [each.marks[ALIVE_AGAIN] - each.marks[ASKED_AGAIN] for each in answered],
        [
            (index, each.reason or "it did not answer", each.kind)
            for index, each in enumerate(asked)
            if ALIVE_AGAIN not in each.marks
        ],
        **dimensions,
    )


def add_generator(outcome: Outcome, into: Collector, dimensions: Mapping[str, Scalar]) -> None:
    """Add what the generator says of itself."""
    into.add("lateness", "s", outcome.lateness, **dimensions)
    add_readings(outcome.readings, into, dimensions)
    into.add("generator-thread-wait", "s", thread_waits(outcome), **dimensions)


def add_readings(
    readings: Sequence[Reading], into: Collector, dimensions: Mapping[str, Scalar]
) -> None:
    """Add what a generator has read of itself every 200 ms."""
    into.add("generator-loop-delay", "s", [each.loop_delay_s for each in readings], **dimensions)
    into.add("generator-cpu", "1", [each.processor_share for each in readings], **dimensions)
    into.add("generator-sockets", "1", [float(each.sockets) for each in readings], **dimensions)
    descriptors = [float(each.descriptors) for each in readings]
    into.add("generator-descriptors", "1", descriptors, **dimensions)


def thread_waits(outcome: Outcome) -> Sequence[float]:
    """Seconds that each request waited for a thread of this process; none where no threads are."""
    return [
        each.marks[THREAD] - each.lateness_s
        for each in outcome.results
        if THREAD in each.marks and each.lateness_s is not None
    ]


def ready_rates(outcome: Outcome) -> Sequence[float]:
    """How many sandboxes became usable in each second since the start."""
    seconds = Counter(
        math.floor(each.arrival.at_s + each.marks[USABLE])
        for each in outcome.results
        if USABLE in each.marks
    )
    return [float(seconds[second]) for second in range(max(seconds, default=-1) + 1)]

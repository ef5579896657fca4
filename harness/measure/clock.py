"""The clock of every measurement: monotonic, of the machine that runs the sandbox.

One cold start has one start event and yields a whole ladder of durations, one per rung. The rungs
and the events that stop them are data here; who takes the times is the rig.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from harness.measure import record

now_ns: Callable[[], int] = time.perf_counter_ns
"""Nanoseconds on CLOCK_MONOTONIC; readings of two processes of one machine are comparable."""

START = "the caller's request"


@dataclass(frozen=True)
class Rung:
    """One step of a cold start; `stop` is the event that ends its duration."""

    name: str
    stop: str


LADDER = (
    Rung("object", "the VMM, jail or container exists"),
    Rung(
        "resumed",
        "the VMM has acknowledged that the vCPUs run, or a reply has shown it, whichever is first",
    ),
    Rung("first-reply", "the guest has computed the answer to a random nonce"),
    Rung("first-exec", "a process started inside the guest has returned its output"),
    Rung("first-touch", "the guest has written the stated working set"),
)


def calibrate(
    clock: Callable[[], int] = now_ns, rounds: int = 101, readings: int = 100
) -> tuple[float, float]:
    """(resolution_ns, overhead_ns) of a clock that gives nanoseconds, each a median over rounds.

    The resolution is the smallest step above zero seen in a round, so the finest difference that
    a caller can tell, not the one that the system claims. The overhead is what an empty interval
    reads: the mean distance of two readings one directly after the other.
    """
    steps: list[int] = []
    costs: list[float] = []
    for _ in range(rounds):
        seen = [clock() for _ in range(readings)]
        while seen[-1] == seen[0]:  # a clock coarser than the round
            seen.append(clock())
        steps.append(min(b - a for a, b in itertools.pairwise(seen) if b > a))
        costs.append((seen[-1] - seen[0]) / (len(seen) - 1))
    return statistics.median(steps), statistics.median(costs)


def calibrated(id: str, start: str, stop: Mapping[str, str]) -> record.Clock:
    """A record's clock, calibrated now (about a millisecond); `stop` has one event per metric."""
    resolution, overhead = calibrate()
    return record.Clock(
        id=id,
        start=start,
        stop=stop,
        source=f"time.perf_counter_ns: {time.get_clock_info('perf_counter').implementation}",
        resolution_ns=resolution,
        overhead_ns=overhead,
    )


def cold_start_clock() -> record.Clock:
    """The record's clock of a cold start."""
    return calibrated("cold-start", START, {rung.name: rung.stop for rung in LADDER})


@contextlib.contextmanager
def without_collector() -> Iterator[None]:
    """Collect garbage now, and never while the block measures."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()

"""The clock of every measurement: monotonic, of the machine that runs the sandbox.

A cold start has one start event and several stop events, the rungs of a ladder; each rung gives one
duration. Rungs and events are defined here; the rig takes the times.
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
"""Nanoseconds of CLOCK_MONOTONIC; comparable between processes of one machine."""

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
    """(resolution_ns, overhead_ns) of a clock in nanoseconds, each the median of `rounds`.

    The resolution is the smallest positive step seen in a round: the finest difference that a
    caller can observe, not the one that the system claims. The overhead is the duration that an
    empty interval shows: the mean difference of consecutive readings.
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
    """A record's clock, calibrated now (takes about 1 ms); `stop` has one event per metric."""
    resolution, overhead = calibrate()
    return record.Clock(
        id=id,
        start=start,
        stop=stop,
        source=f"time.perf_counter_ns: {time.get_clock_info('perf_counter').implementation}",
        resolution_ns=resolution,
        overhead_ns=overhead,
    )


def cold_start_clock(more: Mapping[str, str] | None = None) -> record.Clock:
    """The clock of a cold-start record, calibrated now; `more` are stops of other metrics."""
    stops = {rung.name: rung.stop for rung in LADDER} | dict(more or {})
    return calibrated("cold-start", START, stops)


@contextlib.contextmanager
def without_collector() -> Iterator[None]:
    """Collect garbage now, and never while the block measures."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()

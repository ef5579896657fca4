"""The generator watches itself: whether a figure is the system's, or that of an overloaded client.

Every 200 ms: how late the event loop is, this process's share of one processor, its sockets and its
descriptors. `saturated` names the reasons for which the schedule was not kept.
"""

from __future__ import annotations

import asyncio
import os
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass

from harness.measure.statistics import percentile

EVERY_S = 0.2
LATENESS_S = 0.005
"""The largest acceptable 99th percentile of dispatch lateness."""
LOOP_DELAY_S = 0.05
"""The largest acceptable 95th percentile of the event loop's delay: responses wait as long."""
PROCESSOR_SHARE = 0.95
"""The largest acceptable share of one processor: more, and the interpreter has no time left."""
DESCRIPTORS = "/proc/self/fd", "/dev/fd"


@dataclass(frozen=True, slots=True)
class Reading:
    """`at_s` counts from the schedule's start. `sockets` and `descriptors` are those open."""

    at_s: float
    loop_delay_s: float
    processor_share: float
    sockets: int
    descriptors: int


def open_descriptors() -> tuple[int, int]:
    """This process's open sockets, and all its open descriptors."""
    names: list[str] = []
    for place in DESCRIPTORS:
        try:
            names = os.listdir(place)  # noqa: PTH208 a path for each would take ten times as long
            break
        except OSError:
            continue
    sockets = every = 0
    for name in names:
        try:
            sockets += stat.S_ISSOCK(os.fstat(int(name)).st_mode)
        except OSError:  # closed meanwhile: the one that listed the directory, for example
            continue
        every += 1
    return sockets, every


async def watch(into: list[Reading], start: float) -> None:
    """Add a reading every 200 ms until cancelled. `start` is a moment of time.perf_counter."""
    clock = time.perf_counter
    before, used = clock(), time.process_time()
    while True:
        await asyncio.sleep(EVERY_S)
        now, spent = clock(), time.process_time()
        into.append(
            Reading(
                now - start,
                max(0.0, now - before - EVERY_S),
                (spent - used) / (now - before),
                *open_descriptors(),
            )
        )
        before, used = clock(), spent


def saturated(
    lateness: Sequence[float], readings: Sequence[Reading], *, beyond_limit: int = 0, limit: int = 0
) -> Sequence[str]:
    """Why the generator did not keep its schedule; empty if it did. Each makes a record suspect.

    `beyond_limit` arrivals were refused by the generator itself, since `limit` were alive.
    """
    found = []
    if lateness and (late := percentile(lateness, 99)) > LATENESS_S:
        found.append(f"dispatch lateness p99 {late * 1e3:.1f} ms exceeds {LATENESS_S * 1e3:g} ms")
    if readings:
        delay = percentile([each.loop_delay_s for each in readings], 95)
        if delay > LOOP_DELAY_S:
            found.append(
                f"event loop p95 {delay * 1e3:.0f} ms late, {LOOP_DELAY_S * 1e3:g} allowed"
            )
        share = sum(each.processor_share for each in readings) / len(readings)
        if share > PROCESSOR_SHARE:
            found.append(f"its process took {share:.0%} of one processor")
    if beyond_limit:
        found.append(f"{beyond_limit} arrivals came while {limit} sandboxes, its limit, were alive")
    return [f"generator saturated: {each}" for each in found]

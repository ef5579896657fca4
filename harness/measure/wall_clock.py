"""Whether the wall clock stood still against the monotonic clock while something was measured.

Durations are monotonic. Two things are not: the dates of a record, and the moment at which QEMU
continued a vCPU, which its RESUME event gives in wall-clock time. Both are wrong if the wall clock
is set meanwhile, so a record says when it was.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

STEP_S = 1e-3
"""The smallest step that is noticed: more than a pause between two readings of an idle machine."""
SLEW = 1e-3
"""Twice the rate at which Linux lets the wall clock be slewed, which is no step."""
TRIES = 5


@dataclass(frozen=True)
class Reading:
    """Seconds of the wall clock minus those of the monotonic one, and when both were read."""

    offset: float
    at: float


def read() -> Reading:
    """Read both clocks; the reading with the least time between them counts."""
    readings = []
    for _ in range(TRIES):
        before = time.perf_counter()
        wall = time.time()
        after = time.perf_counter()
        middle = (before + after) / 2
        readings.append((after - before, Reading(wall - middle, middle)))
    return min(readings, key=lambda pair: pair[0])[1]


def step(before: Reading, after: Reading) -> float:
    """By how many seconds the wall clock was set between two readings; 0 where it was not."""
    moved = after.offset - before.offset
    return moved if abs(moved) > STEP_S + SLEW * (after.at - before.at) else 0.0


class Watch:
    """What was noticed while a record was made; several threads may add to it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun = read()
        self._disturbed = 0
        self._early = 0

    def begin(self) -> None:
        with self._lock:
            self._begun, self._disturbed, self._early = read(), 0, 0

    def attempt(self, before: Reading) -> None:
        """Note one attempt, which began at `before` and has ended, if a step fell into it."""
        if step(before, read()):
            with self._lock:
                self._disturbed += 1

    def early(self) -> None:
        """Note a vCPU that ran before its VMM existed, by the wall clock."""
        with self._lock:
            self._early += 1

    def reasons(self) -> list[str]:
        """Why the dates or the rung `resumed` of this record are not to be trusted."""
        found = []
        if moved := step(self._begun, read()):
            found.append(
                f"the wall clock moved by {moved:+.3f} s against the monotonic clock: it was set, "
                "or the machine slept; durations are monotonic, but not the record's dates"
            )
        if self._disturbed:
            found.append(
                f"the wall clock was set during {self._disturbed} attempts: "
                "their samples of resumed may be wrong"
            )
        if self._early:
            found.append(
                f"{self._early} samples of resumed were bounded: by the wall clock, the vCPU ran "
                "before its VMM existed"
            )
        return found


watch = Watch()
"""Of this process, which makes one record at a time."""

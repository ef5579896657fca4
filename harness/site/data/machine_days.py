"""Days on which a machine moved as a whole: what has nothing in common but the machine became
quicker or slower together. A change on such a day tells nothing about the code.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

FEWEST = 10
"""The fewest series that must have moved."""
SUBJECTS = 2
"""The fewest subjects, of each of which three series or more are known."""
LEAST = 0.10
"""The least change of each subject's median."""
TOGETHER = 0.9
"""The share of all series that must have moved the same way."""
_OF_TIME = {"s": 1, "1/s": -1, "bytes/s": -1}
"""The units that depend on a machine's speed; the sign makes a greater value slower."""


@dataclass(frozen=True)
class Step:
    """How a series' median moved from one run to the next, which was on `day`.

    `overnight`: the run before was on another day. `subject`: the rig and the substrate.
    `other_kernel`: the machine had another kernel then.
    """

    day: str
    overnight: bool
    subject: tuple[str, object]
    unit: str
    before: float
    after: float
    other_kernel: bool = False

    @property
    def size(self) -> float | None:
        """The logarithm of the factor, above 0 for slower; None if it says nothing of that."""
        sign = _OF_TIME.get(self.unit)
        if not self.overnight or sign is None or min(self.before, self.after) <= 0:
            return None
        return sign * math.log(self.after / self.before)


@dataclass(frozen=True)
class MachineDay:
    """A day on which a machine moved. `factor` is the median of all series, above 1 for slower.

    `along` of its `series` moved that way. `other_kernel`: all ran on another kernel before.
    """

    day: str
    factor: float
    series: int
    along: int
    subjects: tuple[str, ...]
    other_kernel: bool

    @property
    def slower(self) -> bool:
        return self.factor > 1


def days_of(steps: Iterable[Step]) -> Sequence[MachineDay]:
    """The days on which all subjects moved the same way, oldest first."""
    by_day: dict[str, list[tuple[Step, float]]] = {}
    for step in steps:
        if (size := step.size) is not None:
            by_day.setdefault(step.day, []).append((step, size))
    found = []
    for day, several in sorted(by_day.items()):
        if moved := _moved(day, several):
            found.append(moved)
    return found


def _moved(day: str, several: Sequence[tuple[Step, float]]) -> MachineDay | None:
    by_subject: dict[tuple[str, object], list[float]] = {}
    for step, size in several:
        by_subject.setdefault(step.subject, []).append(size)
    every = [size for _, size in several]
    middle = statistics.median(every)
    medians = {
        subject: statistics.median(sizes)
        for subject, sizes in by_subject.items()
        if len(sizes) >= 3
    }
    along = sum(size * middle > 0 for size in every)
    if (
        len(every) < FEWEST
        or len(medians) < SUBJECTS
        or along < TOGETHER * len(every)
        or not all(size * middle > 0 and abs(size) >= math.log1p(LEAST)
                   for size in medians.values())
    ):  # fmt: skip
        return None
    names = tuple(sorted(" ".join(str(part) for part in one if part) for one in medians))
    kernel = all(step.other_kernel for step, _ in several)
    return MachineDay(day, math.exp(middle), len(every), along, names, kernel)


def explained(step: Step, day: MachineDay) -> bool:
    """Whether the day explains a step: the same way, and not much further than the others."""
    size, middle = step.size, math.log(day.factor)
    return size is not None and size * middle > 0 and abs(size) <= 2 * abs(middle)

"""One schedule for several generators: how it is split, and how what they measured is merged.

Each generator carries out every n-th arrival, so that all of them always offer an equal share of
the rate. They agree on one start, a moment that each converts to its own clock; every latency is
taken from one clock alone. Merged are the results of single arrivals, never percentiles. The
arrivals of a generator that was lost are `lost`: they are counted, and never sent a second time.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from harness.errors import UsageError
from harness.load.arrivals import Schedule
from harness.load.generator import SOON_S, Outcome, Result, clock
from harness.load.self_watch import Reading


class Together(Protocol):
    """Lets the generators of a storm enter its stages at the same time. `number` is that of this
    generator, from 0."""

    @property
    def number(self) -> int: ...

    async def start(self) -> float:
        """Wait until every generator is ready; the moment of time.perf_counter on which they have
        agreed as time 0 of the schedule. Called once, first."""

    async def __call__(self, stage: str) -> None:
        """Wait until every generator that is left has reached this stage."""


Work = Callable[[Schedule, Together], Coroutine[Any, Any, Outcome]]
"""Carries out a schedule. It is sent to other processes, so it must be importable there."""


class Alone:
    """`Together` of a single generator: there is nothing to wait for."""

    number = 0

    async def start(self) -> float:
        return clock() + SOON_S

    async def __call__(self, stage: str) -> None:
        await asyncio.sleep(0)


@dataclass(frozen=True)
class ClockOffset:
    """What a generator's clock shows more than ours, in seconds, and the bound of its error."""

    seconds: float
    uncertainty_s: float

    @classmethod
    def measured(cls, readings: Iterable[tuple[float, float, float]]) -> ClockOffset:
        """From the readings of each round trip: our clock, the generator's clock, our clock again.

        Its clock was read somewhere within the round trip, and the shortest one says most.
        """
        before, there, after = min(readings, key=lambda each: each[2] - each[0])
        return cls(there - (before + after) / 2, (after - before) / 2)

    def differs(self, later: ClockOffset) -> bool:
        """Whether the clocks have moved against each other by more than the error of both."""
        return abs(later.seconds - self.seconds) > self.uncertainty_s + later.uncertainty_s


@dataclass(frozen=True)
class Lost:
    """A generator that did not deliver its part, and why."""

    generator: str
    reason: str


@dataclass(frozen=True)
class Part:
    """What one generator delivered, and what its clock showed before and after."""

    generator: str
    outcome: Outcome | Lost
    before: ClockOffset = ClockOffset(0.0, 0.0)
    after: ClockOffset | None = None


@dataclass(frozen=True)
class Merged:
    """The results of all arrivals in their order, and what each generator saw of itself.

    The readings stand apart, since two processes have two processors' shares. `lost` are the
    numbers of the generators that were lost, from 0. `doubts` are why the whole is suspect: a
    generator that was lost or saturated, a clock that moved.
    """

    outcome: Outcome
    readings: Sequence[Sequence[Reading]]
    offsets: Sequence[ClockOffset]
    lost: frozenset[int]
    doubts: Sequence[str]


def split(schedule: Schedule, generators: int) -> Sequence[Schedule]:
    """The parts of a schedule, of equal rate; UsageError where some would be empty."""
    if len(schedule) < generators:
        raise UsageError(
            f"{len(schedule)} arrivals are too few for {generators} generators",
            hint=f"--generators {max(len(schedule), 1)}",
        )
    return [
        dataclasses.replace(
            schedule,
            rate=schedule.rate / generators,
            entries=schedule.entries[number::generators],
        )
        for number in range(generators)
    ]


def merged(schedule: Schedule, parts: Sequence[Part]) -> Merged:
    """Put together what the generators of `split` delivered, in the same order."""
    results: list[Result | None] = [None] * len(schedule)
    doubts: list[str] = []
    for number, part in enumerate(parts):
        outcome = part.outcome
        indices = range(number, len(schedule), len(parts))
        if isinstance(outcome, Lost):
            doubts.append(
                f"{part.generator} was lost with its {len(indices)} arrivals: {outcome.reason}"
            )
            for index in indices:
                results[index] = Result(
                    index, schedule.entries[index], None, {}, 0.0, outcome.reason, "lost"
                )
            continue
        named = f"{part.generator}: " if len(parts) > 1 else ""
        doubts += [f"{named}{reason}" for reason in outcome.saturated]
        for index, result in zip(indices, outcome.results, strict=True):
            results[index] = dataclasses.replace(result, index=index)
        if part.after and part.before.differs(part.after):
            moved = part.after.seconds - part.before.seconds
            doubts.append(f"{named}its clock moved {moved * 1e3:+.1f} ms against ours")
    done = [part.outcome for part in parts if not isinstance(part.outcome, Lost)]
    return Merged(
        Outcome(
            schedule,
            done[0].start if done else 0.0,
            sum(outcome.limit for outcome in done),
            [each for each in results if each],
        ),
        [() if isinstance(part.outcome, Lost) else part.outcome.readings for part in parts],
        [part.before for part in parts],
        frozenset(n for n, part in enumerate(parts) if isinstance(part.outcome, Lost)),
        doubts,
    )

"""The open-loop generator: each request is sent when it is due, whatever became of those before.

A closed loop waits for a slow system, and so sends it less while it is slow. Here every latency
counts from the moment at which the request was *due*: what waits in this process is part of it, and
how late a request was sent is kept beside. No arrival is skipped: it has marks or a failure.

The generator does not know what a request is. `Life` is one sandbox's whole life, from its request
until it is gone; it marks the moments that it passes.
"""

from __future__ import annotations

import asyncio
import time
from asyncio import AbstractEventLoop
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from harness.errors import CoppiceError
from harness.load import precise_timer, priority, self_watch
from harness.load.arrivals import Arrival, Schedule
from harness.load.precise_timer import Timer
from harness.load.self_watch import Reading
from harness.measure.record import FailureKind

try:
    import uvloop
except ModuleNotFoundError:  # a host that only measures may lack it
    new_event_loop: Callable[[], AbstractEventLoop] = asyncio.new_event_loop
else:
    new_event_loop = uvloop.new_event_loop

LIMIT = 140
"""Sandboxes of one generator that may be alive at once, unless the caller allows more."""
USABLE = "usable"
"""The mark that ends an arrival's wait: from then on it is in no queue."""
SOON_S = 0.1
"""How far ahead the start lies: the time to get ready for it."""

clock = time.perf_counter
T = TypeVar("T")


class Attempt:
    """One arrival under way. `due` is its intended start, a moment of time.perf_counter."""

    __slots__ = ("_run", "arrival", "due", "index", "lateness_s", "marks", "settled_at")

    def __init__(self, run: _Run, index: int, arrival: Arrival, due: float) -> None:
        self._run = run
        self.index = index
        self.arrival = arrival
        self.due = due
        self.lateness_s: float | None = None
        self.marks: dict[str, float] = {}
        self.settled_at: float | None = None

    def mark(self, name: str, moment: float | None = None) -> None:
        """Keep a moment of time.perf_counter, now if none is given, as seconds since `due`."""
        moment = clock() if moment is None else moment
        self.marks[name] = moment - self.due
        if name == USABLE:
            self.settle(moment)

    def settle(self, moment: float) -> None:
        """It waits no longer: it is usable, or has failed."""
        if self.settled_at is None:
            self.settled_at = moment
            self._run.count_settled()

    async def all_settled(self) -> None:
        """Wait until every arrival of the schedule is usable or has failed."""
        await self._run.all_settled.wait()


Life = Callable[[Attempt], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one arrival. All times are seconds since it was due.

    `lateness_s` is None where the generator's own limit refused it. `settled_s` is when it was
    usable or had failed. A failed arrival has the `marks` that it passed before.
    """

    index: int
    arrival: Arrival
    lateness_s: float | None
    marks: Mapping[str, float]
    settled_s: float
    reason: str | None = None
    kind: FailureKind | None = None


@dataclass(frozen=True)
class Outcome:
    """All results in the order of arrival; `start` is time 0 of the schedule on
    time.perf_counter, `limit` the most that were allowed to be alive."""

    schedule: Schedule
    start: float
    limit: int
    results: Sequence[Result]
    readings: Sequence[Reading] = ()

    @property
    def lateness(self) -> Sequence[float]:
        return [each.lateness_s for each in self.results if each.lateness_s is not None]

    @property
    def beyond_limit(self) -> int:
        """Arrivals that the generator's own limit refused."""
        return sum(each.lateness_s is None and each.kind == "refused" for each in self.results)

    @property
    def saturated(self) -> Sequence[str]:
        """Why the generator did not keep the schedule; each makes the record suspect."""
        return self_watch.saturated(
            self.lateness, self.readings, beyond_limit=self.beyond_limit, limit=self.limit
        )


@dataclass
class _Run:
    schedule: Schedule
    life: Life
    limit: int
    kind_of: Callable[[Exception], FailureKind | None]
    start: float
    all_settled: asyncio.Event = field(default_factory=asyncio.Event)
    results: dict[int, Result] = field(default_factory=dict)
    alive: int = 0
    settled: int = 0

    def count_settled(self) -> None:
        self.settled += 1
        if self.settled == len(self.schedule):
            self.all_settled.set()

    async def dispatch(self, lives: asyncio.TaskGroup, timer: Timer) -> None:
        for index, arrival in enumerate(self.schedule.entries):
            due = self.start + arrival.at_s
            await timer.until(due)
            attempt = Attempt(self, index, arrival, due)
            if self.alive < self.limit:
                self.alive += 1
                lives.create_task(self._live(attempt))
            else:
                reason = f"the generator's own limit: {self.limit} sandboxes were alive"
                self._end(attempt, reason, "refused")

    async def _live(self, attempt: Attempt) -> None:
        attempt.lateness_s = clock() - attempt.due
        reason = kind = None
        try:
            await self.life(attempt)
        except (CoppiceError, OSError) as error:
            reason, kind = told(error), self.kind_of(error)
        finally:
            self.alive -= 1
        self._end(attempt, reason, kind)

    def _end(self, attempt: Attempt, reason: str | None, kind: FailureKind | None) -> None:
        attempt.settle(clock())
        assert attempt.settled_at is not None
        self.results[attempt.index] = Result(
            attempt.index,
            attempt.arrival,
            attempt.lateness_s,
            attempt.marks,
            attempt.settled_at - attempt.due,
            reason,
            kind,
        )


def told(error: Exception) -> str:
    """An error as the reason of a failure."""
    text = error.args[0] if isinstance(error, CoppiceError) else error
    return f"{type(error).__name__}: {text}"


def _failed(error: Exception) -> None:
    """No kind: it has failed."""


async def run(
    schedule: Schedule,
    life: Life,
    *,
    limit: int = LIMIT,
    start: float | None = None,
    kind_of: Callable[[Exception], FailureKind | None] = _failed,
) -> Outcome:
    """Send every arrival when it is due; returns when the last life has ended.

    `start` is time 0 of the schedule, a moment of time.perf_counter, by default soon. A
    CoppiceError or OSError of a life is the failure of that arrival, of the kind that `kind_of`
    returns (None: it has failed). Any other exception is a defect: it ends the run and is raised.
    Where the run is cancelled or fails, all lives are cancelled, and have ended when this returns.
    """
    run = _Run(schedule, life, limit, kind_of, clock() + SOON_S if start is None else start)
    readings: list[Reading] = []
    watching = asyncio.create_task(self_watch.watch(readings, run.start))
    try:
        with priority.raised(), precise_timer.opened() as timer:
            async with asyncio.TaskGroup() as lives:
                await run.dispatch(lives, timer)
    except BaseExceptionGroup as group:
        raise _first(group) from None
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    results = [run.results[index] for index in range(len(schedule))]
    return Outcome(schedule, run.start, limit, results, readings)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


def on_fresh_loop(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on an event loop of its own: that of uvloop where it is installed."""
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(main)

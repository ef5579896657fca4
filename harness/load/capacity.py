"""Capacity: the highest rate at which a latency bound holds and no queue grows.

A sweep offers one rate after the other: each twice (or half) the one before until the system holds
one and not the next, then between the two. A step holds where all of this is true:

- nothing failed and nothing was refused;
- the 99th percentile of `usable`, counted from the moment at which each request was due, is within
  the bound. It is the nearest rank: with fewer than 100 requests the slowest of all;
- the queue does not grow. The queue is what was due and is neither usable nor failed. Its mean over
  the last third of the step is compared with that over the first third, and may exceed it by three
  standard deviations of a queue of that length (which, of independent requests, is the root of the
  length), and by no less than three requests.

A pool hides growth until it is empty. Where its stock can be read, the caller judges the shortfall
in the same way; elsewhere a step must have many more requests than the pool has sandboxes.

How late the generator sent a request is part of its latency. A step that holds although the
generator was late therefore holds. Where the lowest rate that does not hold is one at which the
generator was saturated, the capacity is a lower bound: what the system would do is not known.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.load.generator import USABLE, Outcome
from harness.measure.statistics import percentile

STEPS = 12
"""Rates that a sweep tries at most."""
FINE = 1.1
"""The search ends where the lowest rate that does not hold is within this factor of the highest
one that does."""
LEAST_RATE = 0.1
QUEUE_EVERY_S = 0.1
QUEUE_READINGS = 1000
"""The most readings of the queue's length."""
LEAST_GROWTH = 3.0
DEVIATIONS = 3.0


@dataclass(frozen=True)
class Step:
    """One offered rate. `why` says why it did not hold, None where it did; `saturated` why the
    generator did not keep the schedule."""

    rate: float
    outcome: Outcome
    why: str | None
    saturated: Sequence[str] = ()

    @property
    def holds(self) -> bool:
        return self.why is None


@dataclass(frozen=True)
class Sweep:
    """All steps, in the order in which they were offered."""

    steps: Sequence[Step]

    @property
    def capacity(self) -> float | None:
        """The highest rate that held below the lowest that did not; None where none did."""
        broken = min((step.rate for step in self.steps if not step.holds), default=math.inf)
        return max(
            (step.rate for step in self.steps if step.holds and step.rate < broken), default=None
        )

    @property
    def doubts(self) -> Sequence[str]:
        """Why the capacity is not the system's own; empty where the sweep has found it."""
        holding = self.capacity
        if holding is None:
            return [f"no rate of the sweep held, down to {self.steps[-1].rate:g} a second"]
        above = [step for step in self.steps if step.rate > holding]
        if not above:
            return [
                f"every rate of the sweep held, up to {holding:g} a second: it is a lower bound"
            ]
        return min(above, key=lambda step: step.rate).saturated

    @property
    def bounded_by(self) -> str | None:
        """What the lowest rate that did not hold failed by; None without one."""
        broken = [step for step in self.steps if not step.holds]
        if not broken:
            return None
        return min(broken, key=lambda step: step.rate).why


def sweep(
    offer: Callable[[float], Outcome],
    first: float,
    judge: Callable[[Outcome], str | None],
    steps: int = STEPS,
    fine: float = FINE,
    doubts: Callable[[Outcome], Sequence[str]] = lambda outcome: outcome.saturated,
    most: float = math.inf,
) -> Sweep:
    """Offer rates up to `most`, beginning with `first`, until the capacity is known or `steps` are
    used up.

    `judge` says why an outcome does not hold, `doubts` why that may be due to the generator.
    """
    taken: list[Step] = []
    rate = first
    while len(taken) < steps:
        outcome = offer(rate)
        taken.append(Step(rate, outcome, judge(outcome), doubts(outcome)))
        following = _next(taken, fine)
        if following is None or following > most:
            break
        rate = following
    return Sweep(taken)


def _next(taken: Sequence[Step], fine: float) -> float | None:
    """The next rate to offer; None where the search has ended."""
    broken = min((step.rate for step in taken if not step.holds), default=None)
    held = Sweep(taken).capacity
    if broken is None:
        return max(step.rate for step in taken) * 2
    if held is None:
        return broken / 2 if broken / 2 >= LEAST_RATE else None
    if broken / held <= fine:
        return None
    return float(f"{math.sqrt(held * broken):.3g}")


def judged(bound_s: float) -> Callable[[Outcome], str | None]:
    """What says why an outcome does not hold a bound."""

    def judge(outcome: Outcome) -> str | None:
        failures = [each for each in outcome.results if each.reason]
        if failures:
            refused = sum(each.kind == "refused" for each in failures)
            return (
                f"{len(failures) - refused} requests failed and {refused} were refused; "
                f"the first: {failures[0].reason}"
            )
        p99 = percentile([each.marks[USABLE] for each in outcome.results], 99)
        if p99 > bound_s:
            return f"usable p99 {p99 * 1e3:.0f} ms exceeds {bound_s * 1e3:g} ms"
        if grew := growth(queue_lengths(outcome)):
            return f"the queue grew from {grew[0]:.1f} to {grew[1]:.1f} requests"
        return None

    return judge


def queue_lengths(outcome: Outcome) -> Sequence[float]:
    """The queue's length every 100 ms (less often in a long storm) until the last request was due,
    computed from the moments of all requests."""
    due = [each.arrival.at_s for each in outcome.results]
    settled = sorted(each.arrival.at_s + each.settled_s for each in outcome.results)
    span = outcome.schedule.duration_s
    every = max(QUEUE_EVERY_S, span / QUEUE_READINGS)
    moments = [number * every for number in range(int(span / every) + 1)]
    return [float(bisect_right(due, at) - bisect_right(settled, at)) for at in moments]


def growth(lengths: Sequence[float]) -> tuple[float, float] | None:
    """The queue's mean length in the first and the last third, where the last shows growth."""
    third = len(lengths) // 3
    if not third:
        return None
    first, last = sum(lengths[:third]) / third, sum(lengths[-third:]) / third
    allowed = max(LEAST_GROWTH, DEVIATIONS * math.sqrt(first))
    return (first, last) if last - first > allowed else None

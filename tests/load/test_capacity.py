"""A sweep ends at the highest rate that a system of known capacity holds."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from harness.load.arrivals import Schedule, poisson
from harness.load.capacity import growth, judged, queue_lengths, sweep
from harness.load.generator import USABLE, Outcome, Result


def served(schedule: Schedule, service_s: float, lateness_s: float = 0.0) -> Outcome:
    """What a system of one server gives that takes `service_s` for each request."""
    free, results = 0.0, []
    for index, arrival in enumerate(schedule.entries):
        free = max(free, arrival.at_s) + service_s
        took = free - arrival.at_s + lateness_s
        results.append(Result(index, arrival, lateness_s, {USABLE: took}, took))
    return Outcome(schedule, 0.0, 140, results)


def offering(service_s: float, seconds: float = 20) -> Callable[[float], Outcome]:
    return lambda rate: served(poisson(rate, round(rate * seconds), 3), service_s)


@pytest.mark.parametrize("first", [1, 10, 95, 400, 3000])
def test_a_sweep_finds_the_capacity_of_a_system_from_either_side(first: float) -> None:
    found = sweep(offering(0.01), first, judged(0.3), steps=20)
    assert found.capacity is not None
    assert 70 <= found.capacity <= 100
    broken = min(step.rate for step in found.steps if not step.holds)
    assert broken / found.capacity <= 1.1
    assert not found.doubts


def test_it_ends_after_its_steps() -> None:
    found = sweep(offering(0.01), 1, judged(0.3), steps=3)
    assert [step.rate for step in found.steps] == [1, 2, 4]
    assert found.capacity == 4
    assert "it is a lower bound" in found.doubts[0]


def test_a_system_that_holds_no_rate_has_no_capacity_and_the_reason_is_kept() -> None:
    found = sweep(offering(2.0), 8, judged(0.3), steps=50)
    assert found.capacity is None
    assert found.bounded_by is not None and "usable p99" in found.bounded_by
    assert "no rate of the sweep held" in found.doubts[0]


def test_a_capacity_below_a_rate_that_the_generator_did_not_keep_is_doubted() -> None:
    def offer(rate: float) -> Outcome:
        return served(poisson(rate, 400, 3), 0.0001, 0.5 if rate > 30 else 0.001)

    found = sweep(offer, 10, judged(0.3))
    assert found.capacity is not None and 25 <= found.capacity <= 30
    assert found.doubts and found.doubts[0].startswith("generator saturated")


def test_a_rate_that_holds_although_the_generator_was_late_holds() -> None:
    """Its lateness is part of every latency."""

    def offer(rate: float) -> Outcome:
        return served(poisson(rate, round(rate * 20), 3), 0.01, 0.02)

    found = sweep(offer, 10, judged(0.4))
    assert found.capacity is not None and 70 <= found.capacity <= 100
    assert found.steps[0].saturated and found.steps[0].holds


def test_failures_and_refusals_break_a_rate() -> None:
    def offer(rate: float) -> Outcome:
        outcome = served(poisson(rate, 100, 3), 0.0001)
        if rate <= 20:
            return outcome
        first, *others = outcome.results
        lost = Result(0, first.arrival, 0.0, {}, 0.1, "Refused: full", "refused")
        return Outcome(outcome.schedule, 0.0, 140, [lost, *others])

    found = sweep(offer, 10, judged(0.3), steps=6)
    assert found.capacity is not None and 18 <= found.capacity <= 20
    assert found.bounded_by == "0 requests failed and 1 were refused; the first: Refused: full"


def test_a_queue_that_grows_breaks_a_rate_whose_latencies_still_hold() -> None:
    """The system is 30 % too slow, and the storm too short for its latencies to show it."""
    outcome = served(poisson(130, 130 * 3, 4), 0.01)
    assert judged(60)(outcome) == "the queue grew from {:.1f} to {:.1f} requests".format(
        *(growth(queue_lengths(outcome)) or ())
    )


def test_steady_queues_do_not_count_as_growing() -> None:
    chance = random.Random(5)
    for length in (0, 1, 4, 50, 400):
        steady = [max(0.0, chance.gauss(length, length**0.5)) for _ in range(90)]
        assert growth(steady) is None
    assert growth([]) is None
    assert growth([0, 1]) is None


def test_the_queue_is_what_was_due_and_has_not_settled() -> None:
    schedule = poisson(50, 500, 1)
    outcome = served(schedule, 0.05)
    lengths = queue_lengths(outcome)
    assert len(lengths) == int(schedule.duration_s / 0.1) + 1
    for number in (3, 20, len(lengths) - 1):
        moment = number * 0.1
        assert lengths[number] == sum(
            each.arrival.at_s <= moment < each.arrival.at_s + each.settled_s
            for each in outcome.results
        )


def test_no_rate_above_the_most_is_offered() -> None:
    found = sweep(offering(0.01), 1, judged(0.3), steps=20, most=5)
    assert [step.rate for step in found.steps] == [1, 2, 4]

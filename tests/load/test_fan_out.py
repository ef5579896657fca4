"""A schedule is split evenly, and merged from the results of single arrivals."""

from __future__ import annotations

import dataclasses

import pytest

from harness.errors import UsageError
from harness.load import arrivals, fan_out
from harness.load.fan_out import ClockOffset, Lost, Part
from harness.load.generator import Outcome, Result


def _outcome(part: arrivals.Schedule, usable: float) -> Outcome:
    results = [
        Result(index, arrival, 0.0, {"usable": usable}, usable)
        for index, arrival in enumerate(part.entries)
    ]
    return Outcome(part, 0.0, 140, results)


def test_every_arrival_has_one_generator() -> None:
    schedule = arrivals.poisson(50, 101, seed=3)
    parts = fan_out.split(schedule, 4)
    found = sorted(
        (entry for part in parts for entry in part.entries), key=lambda entry: entry.at_s
    )
    assert found == list(schedule.entries)
    assert [len(part) for part in parts] == [26, 25, 25, 25]
    assert sum(part.rate for part in parts) == pytest.approx(schedule.rate)


def test_a_burst_is_shared_by_all() -> None:
    parts = fan_out.split(arrivals.burst(40, 80), 4)
    assert [sum(entry.at_s == 0 for entry in part.entries) for part in parts] == [10] * 4


def test_more_generators_than_arrivals_are_refused() -> None:
    with pytest.raises(UsageError, match="3 arrivals are too few for 4 generators"):
        fan_out.split(arrivals.constant(1, 3), 4)


def test_results_are_merged_in_the_order_of_arrival() -> None:
    schedule = arrivals.constant(10, 7)
    parts = fan_out.split(schedule, 3)
    whole = fan_out.merged(
        schedule,
        [Part(f"generator {n}", _outcome(part, n / 10)) for n, part in enumerate(parts, 1)],
    )
    assert [each.index for each in whole.outcome.results] == list(range(7))
    assert [each.arrival for each in whole.outcome.results] == list(schedule.entries)
    usable = [each.marks["usable"] for each in whole.outcome.results]
    assert usable == [0.1, 0.2, 0.3, 0.1, 0.2, 0.3, 0.1]
    assert not whole.doubts


def test_a_lost_generator_loses_its_part_and_nothing_else() -> None:
    schedule = arrivals.constant(10, 7)
    parts = fan_out.split(schedule, 2)
    whole = fan_out.merged(
        schedule,
        [
            Part("generator 1", _outcome(parts[0], 0.1)),
            Part("generator 2", Lost("generator 2", "its process is gone")),
        ],
    )
    assert [each.kind for each in whole.outcome.results] == [None, "lost"] * 3 + [None]
    assert whole.outcome.results[1].reason == "its process is gone"
    (doubt,) = whole.doubts
    assert doubt == "generator 2 was lost with its 3 arrivals: its process is gone"


def test_a_clock_that_moved_makes_the_whole_suspect() -> None:
    schedule = arrivals.constant(10, 2)
    first, second = fan_out.split(schedule, 2)
    still = ClockOffset(5.0, 0.001)
    whole = fan_out.merged(
        schedule,
        [
            Part("generator 1", _outcome(first, 0.1), still, ClockOffset(5.0015, 0.001)),
            Part("generator 2", _outcome(second, 0.1), still, ClockOffset(5.25, 0.001)),
        ],
    )
    assert whole.doubts == ["generator 2: its clock moved +250.0 ms against ours"]
    assert whole.offsets == [still, still]


def test_a_generator_that_was_saturated_is_named() -> None:
    schedule = arrivals.constant(10, 4)
    parts = fan_out.split(schedule, 2)
    late = _outcome(parts[1], 0.1)
    late = dataclasses.replace(
        late, results=[dataclasses.replace(each, lateness_s=1.0) for each in late.results]
    )
    whole = fan_out.merged(
        schedule, [Part("generator 1", _outcome(parts[0], 0.1)), Part("generator 2", late)]
    )
    (doubt,) = whole.doubts
    assert doubt.startswith("generator 2: generator saturated: dispatch lateness")


def test_the_shortest_round_trip_decides_on_an_offset() -> None:
    offset = ClockOffset.measured([(0.0, 107.0, 10.0), (20.0, 121.1, 22.0), (30.0, 139.0, 38.0)])
    assert offset.seconds == pytest.approx(100.1)
    assert offset.uncertainty_s == pytest.approx(1.0)

"""A storm over an API: what a service does is told apart, and whatever it kept is deleted."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.endpoints import event_loop, journal, session
from harness.endpoints.challenge import PATHS
from harness.endpoints.settings import Endpoint, Limits
from harness.errors import UsageError
from harness.load import arrivals, fan_out
from harness.load.arrivals import Arrival, Lifetime, Schedule
from harness.load.fan_out import Alone, Merged
from harness.load.generator import USABLE, Outcome, on_fresh_loop
from harness.load.precise_timer import GRAIN_S
from harness.measure.collector import Collector
from harness.measure.record import Series
from harness.procedures import endpoint_storm, storm_series
from harness.procedures.endpoint_storm import EndpointStorm, Left
from tests.stand_ins.server import Standing, standing_in

RUN = "a-run"
LIMIT_S = 60.0
"""Only a bound against hanging."""


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(endpoint_storm, "PATIENCE_S", 0.3)


def storm_at(service: Standing, **settings: Any) -> EndpointStorm:
    endpoint = Endpoint(
        "stand-in", "stand-in", service.address, service.key, template="base",
        sandbox_url=service.address,
    )  # fmt: skip
    return EndpointStorm(endpoint, RUN, PATHS, **{"limit": 100, "foreign": True, **settings})


def carried_out(storm: EndpointStorm, schedule: Schedule) -> tuple[Outcome, Left]:
    outcome = on_fresh_loop(storm(schedule, Alone()))
    return outcome, event_loop.run(endpoint_storm.clear(storm, 1))


def series_of(outcome: Outcome) -> dict[str, Series]:
    into = Collector("open")
    storm_series.add(outcome, into)
    return {series.metric: series for series in into.series}


SCHEDULE = arrivals.constant(100, 10, kinds=("sh",))


def test_each_sandbox_is_used_and_deleted() -> None:
    schedule = arrivals.constant(100, 12, kinds=("bash", "sh", "ls", "python3"))
    with standing_in() as service:
        outcome, left = carried_out(storm_at(service), schedule)
        assert not service.alive
    assert left == Left()
    assert not any(each.reason for each in outcome.results)
    for each in outcome.results:
        marks = each.marks
        assert 0 < marks["create-headers"] <= marks["create-body"] < marks[USABLE]
    assert "alive-again" not in series_of(outcome)
    assert not journal.directory().exists()


def test_what_is_held_is_asked_again_once_all_are_there() -> None:
    with standing_in() as service:
        outcome, left = carried_out(storm_at(service, hold=True), SCHEDULE)
    found = series_of(outcome)
    assert found["alive-again"].samples == [1.0] * 10
    due = [each.arrival.at_s for each in outcome.results]
    asked = [at + each.marks["asked-again"] for at, each in zip(due, outcome.results, strict=True)]
    there = [at + each.marks[USABLE] for at, each in zip(due, outcome.results, strict=True)]
    assert min(asked) >= max(there)
    assert left == Left()


def test_what_is_kept_for_its_lifetime_is_asked_again() -> None:
    schedule = arrivals.constant(100, 4, lifetime=Lifetime(0.1, 0.2), kinds=("sh",))
    with standing_in() as service:
        outcome, _ = carried_out(storm_at(service), schedule)
    for each in outcome.results:
        kept = each.marks["asked-again"] - each.marks[USABLE]
        assert kept >= each.arrival.lifetime_s - GRAIN_S
    assert series_of(outcome)["alive-again"].samples == [1.0] * 4


@pytest.mark.parametrize(
    ("behaviour", "asks"), [("busy-half", "Retry-After 1 s"), ("busy-silent", "no Retry-After")]
)
def test_refusals_are_no_failures(behaviour: str, asks: str) -> None:
    with standing_in(behaviour) as service:
        outcome, left = carried_out(storm_at(service), SCHEDULE)
        assert not service.alive
    refused = [each for each in outcome.results if each.reason]
    assert {each.kind for each in refused} == {"refused"}
    assert all(asks in (each.reason or "") for each in refused)
    found = series_of(outcome)
    assert found["refused"].samples == [5.0 if behaviour == "busy-half" else 10.0]
    assert found["failed"].samples == [0.0]
    assert left == Left()


@pytest.mark.parametrize("behaviour", ["lying", "lying-echo", "lying-ready"])
def test_a_service_that_lies_has_no_usable_sandbox(behaviour: str) -> None:
    with standing_in(behaviour) as service:
        outcome, _ = carried_out(storm_at(service), SCHEDULE)
    found = series_of(outcome)
    assert not found[USABLE].samples
    assert found["failed"].samples == [10.0]


def test_a_sandbox_that_dies_while_it_is_held_is_seen() -> None:
    schedule = Schedule("trace", 10, (Arrival(0, kind="sh"), Arrival(0.6, kind="sh")))
    with standing_in(lives_s=0.4) as service:
        outcome, _ = carried_out(storm_at(service, hold=True), schedule)
    assert series_of(outcome)["alive-again"].samples == [0.0, 1.0]


def test_creations_without_an_answer_are_leaked_and_deleted() -> None:
    with standing_in("answer-lost", cut_after=4) as service:
        outcome, left = carried_out(storm_at(service), SCHEDULE)
        assert left.leaked == 6
        assert not service.alive
    assert sum(bool(each.reason) for each in outcome.results) == 6


def test_what_a_service_does_not_delete_is_leaked() -> None:
    with standing_in("leaky") as service:
        _, left = carried_out(storm_at(service), SCHEDULE)
        assert left.leaked == len(service.alive) == 10


@pytest.mark.parametrize("names, answer", [("no-list", "404"), ("list-fails", "500")])
def test_leaks_cannot_be_counted_without_a_list(names: str, answer: str) -> None:
    with standing_in(names) as service:
        _, left = carried_out(storm_at(service), SCHEDULE)
        assert not service.alive
    assert left.unknown and answer in left.unknown
    assert left.not_offered == (names == "no-list")


def test_a_storm_beyond_the_limits_of_a_service_is_refused() -> None:
    parts = fan_out.split(arrivals.constant(100, 300), 2)
    kept = [arrivals.constant(10, 30, lifetime=Lifetime(2, 2))]

    def limited(
        sandboxes: int, rate: float, parts: Sequence[Schedule] = parts, *, hold: bool = False
    ) -> int:
        endpoint = Endpoint("a", "a", "http://a", "key", limits=Limits(sandboxes, rate))
        storm = EndpointStorm(endpoint, RUN, PATHS, limit=100, hold=hold)
        return endpoint_storm.within_limits(storm, parts).limit

    assert limited(60, 100) == 30
    assert limited(300, 100, hold=True) == 100
    assert limited(20, 10, kept) == 20
    with pytest.raises(UsageError, match="makes up to 100 sandboxes in a second, and 99 are"):
        limited(60, 99)
    with pytest.raises(UsageError, match="keeps 300 sandboxes at once, and 299 are allowed"):
        limited(299, 100, hold=True)
    with pytest.raises(UsageError, match="keeps 20 sandboxes at once, and 19 are allowed"):
        limited(19, 10, kept)
    with pytest.raises(UsageError, match="keeps 2 sandboxes at once, and 1 are allowed"):
        limited(1, 100, fan_out.split(arrivals.constant(1, 2), 2))


def test_the_densest_second_of_a_schedule() -> None:
    assert endpoint_storm.most_in_a_second(arrivals.burst(7, 20)) == 7
    moments = (0.0, 0.4, 0.9, 1.3, 1.35, 5.0)
    entries = tuple(Arrival(at) for at in moments)
    assert endpoint_storm.most_in_a_second(Schedule("trace", 1, entries)) == 4


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Any]:
    generators = pytest.importorskip("harness.load.generators", reason="needs the extra lab")
    with generators.opened(2, None, dict(os.environ), tmp_path) as opened:
        yield opened


def test_the_sandboxes_of_a_killed_generator_are_deleted(two: Any) -> None:
    """They are told from leaks: the service did nothing wrong."""
    entries = tuple(Arrival(n / 100, kind="sh") for n in range(19))
    # The last arrival is the victim's, which is killed long before; nothing else waits for it.
    schedule = Schedule("trace", 5, (*entries, Arrival(LIMIT_S, kind="sh")))
    victim = two.process_ids()[1]
    with standing_in() as service:

        def kill() -> None:
            deadline = time.monotonic() + LIMIT_S
            while len(service.alive) < 19 and time.monotonic() < deadline:
                time.sleep(0.01)
            os.kill(victim, signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        storm = storm_at(service, hold=True)
        merged: Merged = fan_out.merged(schedule, two.carry_out(storm, fan_out.split(schedule, 2)))
        killer.join()
        left = event_loop.run(endpoint_storm.clear(storm, 2, merged.lost))
        assert not service.alive
        session.reclaim(storm.endpoint)
    assert merged.lost == {1}
    assert [each.kind for each in merged.outcome.results] == [None, "lost"] * 10
    assert left == Left(leaked=0, of_lost=9)
    assert not journal.directory().exists()

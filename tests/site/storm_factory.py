"""Records of storms for tests of the site: made-up requests, made into series by the rigs' code."""

from __future__ import annotations

import random
from collections.abc import Callable

from harness.load import arrivals, capacity
from harness.load.arrivals import Schedule
from harness.load.generator import Outcome, Result
from harness.load.self_watch import Reading
from harness.measure.collector import Collector
from harness.measure.endpoint_facts import EndpointFacts
from harness.measure.record import Facts, RunRecord, Scalar, Validity
from harness.procedures import storm_options, storm_series
from tests.site import factory

SERVES = 40.0
"""Requests a second that the made-up system can take."""


def outcome(schedule: Schedule, *, held: bool = False, refused: int = 0, dead: int = 0) -> Outcome:
    """What becomes of the requests if a system that serves SERVES a second takes them in turn."""
    chance = random.Random(schedule.digest)
    free, results = 0.0, []
    for index, arrival in enumerate(schedule.entries):
        if index < refused:
            why = "429: try later"
            results.append(Result(index, arrival, 0.001, {}, 0.002, why, "refused"))
            continue
        free = max(free, arrival.at_s) + (1 / SERVES) * (0.5 + chance.random())
        usable = free - arrival.at_s
        marks = {
            "create-headers": usable / 3,
            "create-body": usable / 2.5,
            "usable": usable,
        }
        if held:
            marks |= {storm_series.ASKED_AGAIN: usable + 1}
            if index >= refused + dead:
                marks |= {storm_series.ALIVE_AGAIN: usable + 1.01}
        marks |= {storm_series.ENDING: usable + 2, storm_series.ENDED: usable + 2.02}
        results.append(Result(index, arrival, 0.0005 * chance.random(), marks, usable))
    readings = [
        Reading(n * 0.2, 0.001 * chance.random(), 0.2 + 0.1 * chance.random(), 40 + n % 7, 60)
        for n in range(60)
    ]
    return Outcome(schedule, 0.0, 140, results, readings)


def _programs(of: Facts) -> Callable[[str], dict[str, Scalar]]:
    """As the rig does: only of our pools is it known what was rehearsed."""

    def programs(kind: str) -> dict[str, Scalar]:
        if of.get("substrate") != "qemu":
            return {"program": kind}
        return {"program": kind, "rehearsed": "yes" if kind == "bash" else "no"}

    return programs


def _record(
    into: Collector, rig: str, day: int, endpoint: EndpointFacts | None, validity: Validity | None
) -> RunRecord:
    into.add("leaked", "1", [0.0])
    return factory.of_rig(rig, *into.series, day=day, endpoint=endpoint, validity=validity)


def sweep(
    of: Facts,
    rig: str = "e2b-storm",
    *,
    day: int = 1,
    endpoint: EndpointFacts | None = None,
    validity: Validity | None = None,
) -> RunRecord:
    """A sweep, by the code that rigs sweep with."""
    into = Collector("open", **of)

    def offer(rate: float) -> Outcome:
        schedule = arrivals.poisson(rate, max(10, round(rate * 10)), 1, kinds=["bash"])
        made = outcome(schedule)
        storm_series.add(
            made, into, _programs(of), **storm_options.dimensions(schedule), generators=1
        )
        return made

    found = capacity.sweep(offer, 10, capacity.judged(0.3), 12)
    assert found.capacity
    by: dict[str, Scalar] = {"arrivals": "poisson", "bound": 0.3}
    into.add("capacity", "1/s", [found.capacity], (), "higher", **by)
    return _record(into, rig, day, endpoint, validity)


def storm(
    schedule: Schedule,
    of: Facts,
    rig: str = "e2b-storm",
    *,
    day: int = 1,
    endpoint: EndpointFacts | None = None,
    validity: Validity | None = None,
    held: bool = False,
    refused: int = 0,
    dead: int = 0,
) -> RunRecord:
    """One storm."""
    into = Collector("open", **of)
    made = outcome(schedule, held=held, refused=refused, dead=dead)
    storm_series.add(made, into, _programs(of), **storm_options.dimensions(schedule), generators=1)
    return _record(into, rig, day, endpoint, validity)

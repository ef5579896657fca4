"""The check that a network denies by default: it finds what leaks, and that it cannot see."""

from __future__ import annotations

import array
import dataclasses

import pytest

from harness.errors import SandboxError
from harness.host.identity import NETWORK
from harness.host.run import Run
from harness.measure.collector import Collector
from harness.network.cubenet import NOTHING
from harness.network.policy import Policy
from harness.procedures import denial, packet_filters
from harness.procedures.datagrams import Traffic
from harness.procedures.denial import AFTER, BEFORE, Denied, Plan, Watched

STEP_NS = 10
PORTS = (9001, 9002)
PLAN = Plan(before=5, changes=10, in_force_s=0.01, rate=0, ports=PORTS)


def seen(*arrived: int) -> Watched:
    """100 datagrams, one every step, of which these arrived: one interval without a policy, then
    two after changes, at 20 and 50; the neighbour is admitted from 80 to 82."""
    marks = bytearray(number in arrived for number in range(100))
    times = array.array("Q", (STEP_NS * number for number in range(100)))
    begins = [STEP_NS * number for number in (0, 20, 50)]
    return Watched(Traffic(times, marks, PORTS), begins, 1, STEP_NS * 80, STEP_NS * 82)


def test_what_arrives_before_its_admission_has_leaked_in_its_interval() -> None:
    leaked = list(denial.intervals(seen(0, 19, 20, 78, 90)))
    assert leaked == [Denied(BEFORE, 20, 2), Denied(AFTER, 30, 1), Denied(AFTER, 29, 1)]


def test_what_was_being_sent_when_the_neighbour_was_admitted_has_not_leaked() -> None:
    assert sum(one.leaked for one in denial.intervals(seen(79, 80, 81, 82))) == 0


def test_a_neighbour_that_never_hears_anything_proves_nothing() -> None:
    with pytest.raises(SandboxError, match="after a rule admitted it"):
        list(denial.intervals(seen(80)))


def test_an_interval_without_a_packet_is_a_failure_and_not_a_zero() -> None:
    silent = dataclasses.replace(seen(90), begins_ns=[0, STEP_NS * 20, STEP_NS * 20])
    into = Collector()
    denial.collect(silent, 7, {}, into)
    by = {(one.metric, one.dimensions["when"]): one for one in into.series}
    assert by[denial.METRIC, BEFORE].dimensions["n"] == 0
    after = by[denial.METRIC, AFTER]
    assert after.dimensions["n"] == 7 and after.samples == [0] and after.failures
    assert by[denial.TRIED, AFTER].samples == [59]


@pytest.mark.parametrize("leaky", [False, True])
def test_a_packet_is_counted_as_leaked_where_it_gets_through(
    leaky: bool, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    into = Collector()
    with packet_filters.open_network(run) as net:
        if leaky:
            everything = Policy.of([f"{NETWORK} udp/{port}" for port in PORTS])
            apply = net.apply
            monkeypatch.setattr(net, "apply", lambda id, policy: apply(id, everything))
        denial.watch(net, run, 1, [Policy.of(["192.0.2.1"]), NOTHING], PLAN, into)
    sums = {(one.metric, one.dimensions["when"]): sum(one.samples) for one in into.series}
    assert sums[denial.TRIED, BEFORE] and sums[denial.TRIED, AFTER]
    assert sums[denial.METRIC, BEFORE] == 0
    assert bool(sums[denial.METRIC, AFTER]) is leaky

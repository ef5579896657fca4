"""Whether a network denies by default: datagrams to an address that no rule admits.

A sandbox sends to a neighbour: first as it was attached, before any policy was set, then while its
policy changes, but never admits that neighbour. The neighbour listens at the same ports that the
rules admit at another address. Every datagram that arrives has leaked.

At the end the neighbour is admitted: a check in which nothing arrives then would show nothing, and
is an error.
"""

from __future__ import annotations

import bisect
import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from harness.errors import SandboxError
from harness.host.run import Run
from harness.measure.clock import now_ns
from harness.measure.collector import Collector
from harness.measure.record import Facts
from harness.network.policy import Policy
from harness.network.protocol import Network
from harness.procedures import packet_filters
from harness.procedures.datagrams import Traffic, flowing

METRIC, TRIED = "denied-leaks", "denied-sent"
STOPS = {
    METRIC: "the call of the next change: packets to an address that no rule admits, delivered",
    TRIED: "the call of the next change: packets sent to that address",
}
BEFORE, AFTER = "before any policy", "after a change"
TO = "neighbour"
_PATIENCE_S = 10.0


@dataclass(frozen=True)
class Plan:
    """Intervals of `in_force_s`: `before` of them without any policy, then one after each of
    `changes` changes; `rate` limits the datagrams per second (0: none)."""

    before: int
    changes: int
    in_force_s: float
    rate: int
    ports: Sequence[int]


@dataclass(frozen=True)
class Denied:
    """An interval: the datagrams that were sent in it, and how many of them arrived."""

    when: str
    sent: int
    leaked: int


@dataclass(frozen=True)
class Watched:
    """The traffic of one check. Intervals begin at `begins_ns`, of which the first `before` are
    without a policy; the last ends where the neighbour was admitted."""

    traffic: Traffic
    begins_ns: Sequence[int]
    before: int
    admitting_ns: int
    admitted_ns: int


def watch(
    net: Network, run: Run, length: int, policies: Sequence[Policy], plan: Plan, into: Collector
) -> None:
    """Check one pair of policies, each with `length` entries. Raises SandboxError."""
    with ExitStack() as stack:
        asks, neighbour = (
            stack.enter_context(packet_filters.open_endpoint(run, net)) for _ in range(2)
        )
        # Without it nothing would be sent: the filter denies the question for the address, too.
        packet_filters.introduce(run, asks, neighbour)
        flow = stack.enter_context(flowing(run, asks, neighbour, plan.rate, plan.ports))
        begins = []
        for _ in range(plan.before):
            begins.append(now_ns())
            time.sleep(plan.in_force_s)
        for turn in range(plan.changes):
            begins.append(now_ns())
            net.apply(asks.id, policies[turn % len(policies)])
            time.sleep(plan.in_force_s)
        admitting = now_ns()
        services = [f"{neighbour.address} udp/{port}" for port in plan.ports]
        net.apply(asks.id, Policy.of(services))
        admitted = now_ns()
        _await_passing(net, asks.id)
        seen = Watched(flow.traffic(), begins, plan.before, admitting, admitted)
    collect(seen, length, {"rate": plan.rate} if plan.rate else {}, into)


def _await_passing(net: Network, id: str) -> None:
    """Wait until the filter has let a frame of this sandbox pass, since its sender may not be
    running; not forever, because a filter that denies everything is to be an error."""

    def passed() -> int:
        counted = net.counters()[id]
        return counted.sent - counted.denied

    before, deadline = passed(), time.monotonic() + _PATIENCE_S
    while passed() == before and time.monotonic() < deadline:
        time.sleep(0.002)


def intervals(seen: Watched) -> Iterator[Denied]:
    """What was sent and what arrived in each interval. Raises SandboxError when nothing arrived
    after the neighbour was admitted."""
    traffic = seen.traffic
    at = [bisect.bisect_left(traffic.sent_ns, time_ns) for time_ns in seen.begins_ns]
    # The datagram that was being sent when the neighbour was admitted may obey the new policy.
    at.append(max(bisect.bisect_left(traffic.sent_ns, seen.admitting_ns) - 1, at[-1]))
    after = bisect.bisect_left(traffic.sent_ns, seen.admitted_ns)
    if not any(traffic.arrived[after:]):
        raise SandboxError(
            "no packet arrived at the neighbour after a rule admitted it, so what did not arrive "
            "before shows nothing",
            hint="coppice doctor",
        )
    for number, (start, end) in enumerate(itertools.pairwise(at)):
        when = BEFORE if number < seen.before else AFTER
        yield Denied(when, end - start, sum(traffic.arrived[start:end]))


def collect(seen: Watched, length: int, limit: Facts, into: Collector) -> None:
    """Add each interval; before any policy the sandbox has no entries, so `n` is 0."""
    for one in intervals(seen):
        n = 0 if one.when == BEFORE else length
        by = {**packet_filters.FACTS, "n": n, "when": one.when, "to": TO, **limit}
        if one.sent:
            into.add(METRIC, "1", [one.leaked], **by)
            into.add(TRIED, "1", [one.sent], (), "higher", **by)
        else:
            into.fail(METRIC, "1", "nothing was sent before the next change", **by)

"""From which packet on a changed policy is enforced, and whether any packet sees neither policy.

A sandbox sends to another as fast as a core allows (or at `--rate`), to four ports in turn, while
its policy alternates between two, each in force for some milliseconds:

    kept    allowed by both: a lost datagram obeyed neither
    first   allowed by the first only
    second  allowed by the second only
    never   allowed by neither: a datagram that arrives obeyed neither

A datagram carries its number and the time immediately before it was sent. If it was sent after the
change's call had returned, to a port that the policy in force denies, and arrives, it has leaked.
The datagram that was being sent when the next call began is ignored: its sender may have been
preempted between reading the clock and sending, so either policy may apply. Across a change, every
arrival at the old port must have been sent before every arrival at the new port: a datagram out of
this order obeyed neither policy.

A change "across sets" keeps a destination allowed, first by its address and then by a prefix, which
are entries of two sets: a filter that consults one set after the other, and applies the change in
between, finds it in neither.

As a control, the same is measured for a change in two steps, which removes everything and then adds
the new policy: this shows that the method detects a change that is not atomic.

Deny by default is checked by itself: the same datagrams are sent to a neighbour that no rule
admits, before any policy and across such changes (harness/procedures/denial.py).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from harness.host.process import need
from harness.host.run import Run
from harness.measure.benchmark import STOPWATCH
from harness.measure.clock import calibrated, now_ns
from harness.measure.collector import Collector
from harness.measure.record import Clock, Facts
from harness.network.cubenet import NOTHING
from harness.network.policy import Policy
from harness.network.protocol import Network
from harness.procedures import denial, packet_filters
from harness.procedures.datagrams import Traffic, flowing
from harness.procedures.peers import build
from harness.rig.info import RigInfo, numbers
from harness.rig.recorder import RigRun

CHANGES = {"smoke": 200, "quick": 1200, "full": 4800}
"""Many, because a change during which the sender was not scheduled shows nothing."""


def planned(options: Mapping[str, str], profile: str = "quick") -> int:
    """The number of changes of each kind. Raises UsageError unless it and the rate are positive."""
    numbers(options, "rate", (), one=True)
    return numbers(options, "changes", [CHANGES[profile]], one=True)[0]


RIG = RigInfo(
    id="policy-enforcement",
    title="From which packet on a changed policy is obeyed",
    claims=("coppice-policy-enforcement", "coppice-deny-by-default"),
    tools=packet_filters.COMPILER,
    requirements=packet_filters.requirements,
    check=planned,
    options={
        "changes": "changes of each kind; fewer than a thousand show little",
        "rate": "limit of datagrams per second, for hosts that cannot send and serve at once",
    },
    measured_alike=(
        "715000d4d9a3c3588c9a94757f6415e71312cc3c212b738c6a2a6a6059dd51eb",
        "9846255552087a3249d1de7be6beb247fc24373117072287ecb00847ff44a106",
        "c9211fadafad84cb5b13273fd6e04c0178736af87144a3729f2afc25c38e712f",
        "d3a0567b2d9b04ad4bb0538bd10622f5fb5d32014ea8822d7a3e4cce9d02e528",
        "d31669970614d46bd1be98e5933319ca097fe436ccee5e79e86c9e0ba6b50f43",
        "4bd15fe267e2c5d1f0ee56c6b84771a36611cc632daf0d5a7bd707f12b536708",
    ),
)
KEPT, FIRST, SECOND, NEVER = PORTS = (9001, 9002, 9003, 9004)
LENGTHS = (2, 1000)
"""Entries of each policy: a short list, and a list long enough for its own set."""
IN_FORCE_S = 0.002
CLAIMED_LENGTH = 1000
ONE_STEP = str(packet_filters.FACTS["transport"])
ACROSS, TWO_STEPS = f"{ONE_STEP}, across sets", f"{ONE_STEP}, in two steps"
CONTROLS = 100
"""Changes in two steps, at most."""


@dataclass(frozen=True)
class Case:
    """`length` is that of the policies' lists, `transport` how they are changed, `rate` the limit
    of datagrams per second (0: none)."""

    length: int
    transport: str
    changes: int
    rate: int = 0

    @property
    def in_force_s(self) -> float:
        """How long a policy stays in force: long enough for some datagrams to each port."""
        return max(IN_FORCE_S, 4 * len(PORTS) / self.rate) if self.rate else IN_FORCE_S

    @property
    def dimensions(self) -> Facts:
        limit: Facts = {"rate": self.rate} if self.rate else {}
        return {**packet_filters.FACTS, "transport": self.transport, "n": self.length, **limit}


@dataclass(frozen=True)
class Change:
    """One call: when it began and returned, and the ports allowed and denied from then on."""

    called_ns: int
    returned_ns: int
    allowed: int
    denied: int


def policies(address: str, case: Case) -> Sequence[Policy]:
    """Both policies, each filled up to the length with services of other hosts."""
    fill = [f"192.0.2.{1 + number % 250} tcp/{1000 + number}" for number in range(case.length - 2)]
    prefix = str(ip_network(f"{address}/24", strict=False))
    second = prefix if case.transport == ACROSS else address
    return [
        Policy.of([f"{where} udp/{KEPT}", f"{where} udp/{port}", *fill])
        for where, port in ((address, FIRST), (second, SECOND))
    ]


def flip(net: Network, run: Run, case: Case, stack: ExitStack) -> tuple[Traffic, Sequence[Change]]:
    """Send while changing the policy; the traffic and the changes."""
    answers = stack.enter_context(packet_filters.open_endpoint(run, net))
    asks = stack.enter_context(packet_filters.open_endpoint(run, net))
    first, second = policies(answers.address, case)
    net.apply(asks.id, first)
    flow = stack.enter_context(flowing(run, asks, answers, case.rate, PORTS))
    made = []
    for turn in range(case.changes + 2):  # the first and the last lack a neighbour that bounds them
        time.sleep(case.in_force_s)
        called = now_ns()
        if case.transport == TWO_STEPS:
            net.apply(asks.id, NOTHING)
        net.apply(asks.id, first if turn % 2 else second)
        allowed, denied = (FIRST, SECOND) if turn % 2 else (SECOND, FIRST)
        made.append(Change(called, now_ns(), allowed, denied))
    return flow.traffic(), made


def check_denial(net: Network, run: Run, case: Case, into: Collector) -> None:
    """Whether anything reaches a neighbour that this case's policies do not admit."""
    with packet_filters.open_endpoint(run, net) as answers:
        both = policies(answers.address, case)
        before = min(CONTROLS, case.changes)
        plan = denial.Plan(before, case.changes, case.in_force_s, case.rate, PORTS)
        denial.watch(net, run, case.length, both, plan, into)


@dataclass(frozen=True)
class Verdict:
    """The effect of one change. `allowing_ns` and `denying_ns` count from the call's return to the
    first datagram that shows the new policy; None if there was none."""

    allowing_ns: int | None
    denying_ns: int | None
    leaked: int
    torn: int
    after: int
    """Datagrams sent after the return; without any, the change shows nothing."""


def verdicts(traffic: Traffic, changes: Sequence[Change]) -> Iterator[Verdict]:
    """Each change, judged by the traffic from the middle of the interval before it to the next."""
    ends = [change.called_ns for change in changes[1:]]
    starts = [change.returned_ns for change in changes[:-1]]
    for change, start, end in zip(changes[1:-1], starts, ends[1:], strict=False):
        yield _judge(traffic, change, (start + change.called_ns) // 2, end)


def _judge(traffic: Traffic, change: Change, start_ns: int, end_ns: int) -> Verdict:
    torn = leaked = sent_after = 0
    allowing = denying = None
    began = False
    for number in traffic.between(start_ns, end_ns):
        port, arrived = traffic.port(number), traffic.arrived[number]
        after = traffic.sent_ns[number] - change.returned_ns
        if port == change.allowed and arrived:
            began = True
            if after >= 0 and allowing is None:
                allowing = after
        if port == change.denied and not arrived and after >= 0 and denying is None:
            denying = after
        torn += port == KEPT and not arrived
        torn += port == NEVER and arrived
        torn += port == change.denied and arrived and began
        torn += port == change.allowed and not arrived and began
        leaked += port == change.denied and bool(arrived) and after >= 0
        sent_after += after >= 0
    return Verdict(allowing, denying, leaked, torn, sent_after)


def collect(traffic: Traffic, changes: Sequence[Change], by: Facts, into: Collector) -> None:
    for verdict in verdicts(traffic, changes):
        reason = "nothing was sent between this call's return and the next call"
        for kind, nanoseconds in (("allow", verdict.allowing_ns), ("deny", verdict.denying_ns)):
            if nanoseconds is None:
                into.fail("enforcement", "s", reason, **by, change=kind)
            else:
                into.add("enforcement", "s", [nanoseconds * 1e-9], **by, change=kind)
        for metric, count in (("leaked-packets", verdict.leaked), ("torn-packets", verdict.torn)):
            if verdict.after or count:
                into.add(metric, "1", [count], **by)
            else:
                into.fail(metric, "1", reason, **by)
    into.add("policy-update", "s", [(c.returned_ns - c.called_ns) * 1e-9 for c in changes], **by)
    seconds = (traffic.sent_ns[-1] - traffic.sent_ns[0]) * 1e-9
    into.add("sent", "1/s", [len(traffic.sent_ns) / seconds], (), "higher", **by)


@pytest.mark.benchmark(timer=STOPWATCH)
def test_policy_enforcement(
    benchmark: BenchmarkFixture, run: Run, rig_run: RigRun, profile: str
) -> None:
    for tool in RIG.tools:
        need(tool)
    changes = planned(rig_run.options, profile)
    rate = int(rig_run.option("rate") or 0)
    into = Collector()
    with ExitStack() as stack:
        net = stack.enter_context(packet_filters.open_network(run))
        build("flood", run.directory)
        build("sink", run.directory)
        rig_run.prepared((), None, ())
        rig_run.begin()
        cases = [Case(length, ONE_STEP, changes, rate) for length in LENGTHS]
        cases.append(Case(LENGTHS[0], ACROSS, changes, rate))
        cases += [Case(length, TWO_STEPS, min(CONTROLS, changes), rate) for length in LENGTHS]
        measured = [(case, *flip(net, run, case, stack)) for case in cases]
        for case in cases[: len(LENGTHS)]:
            check_denial(net, run, case, into)
        rig_run.end()
        for case, traffic, made in measured:
            collect(traffic, made, case.dimensions, into)
    series = into.series
    record = rig_run.write(RIG, Path(__file__), series, clock())
    claimed = next(
        found
        for found in series
        if (found.metric, found.dimensions.get("change")) == ("enforcement", "deny")
        and (found.dimensions["n"], found.dimensions["transport"]) == (CLAIMED_LENGTH, ONE_STEP)
    )
    assert claimed.samples, "no packet was sent between two changes"
    rig_run.deliver(benchmark, claimed, record)


def clock() -> Clock:
    return calibrated(
        "enforcement",
        "the return of the call that changes the policy",
        {
            "enforcement": "the first packet sent after it that obeys the new policy was sent",
            "leaked-packets": "the call of the next change: packets counted up to then",
            "torn-packets": "the call of the next change: packets counted up to then",
            "policy-update": "from the call to its return",
            "sent": "datagrams per second, from the first to the last",
            **denial.STOPS,
        },
    )

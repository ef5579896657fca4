"""From which packet on a changed policy is obeyed, and whether any packet sees neither.

One sandbox sends to another as fast as a core can (or at a rate that was asked for), to four ports
in turn, while its policy goes back and forth between two, each in force for some milliseconds:

    kept    allowed by both: each that is lost obeyed neither
    first   allowed by the first only
    second  allowed by the second only
    never   allowed by neither: each that arrives obeyed neither

A datagram carries its number, and the time directly before it was sent. One of a port that the
policy in force denies, sent after the change's call had returned, that arrives has leaked. The one
that was being sent when the next call began is left out: its sender may have been held between
reading the clock and sending, and either policy may judge it. In one change all arrivals of the one
port must come before all those of the other in the order of sending: a datagram out of this order
obeyed neither policy.

A change "across sets" allows what both allow by its address first and by a prefix then, which are
entries of two sets: a filter that looks into one after the other, and takes the change in between,
finds it in neither.

As a control the same is measured of a change in two steps, taking everything away and then giving
anew: what this way of looking finds where a change is not atomic.
"""

from __future__ import annotations

import array
import bisect
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from harness.errors import SandboxError, UsageError
from harness.host.process import need
from harness.host.run import Run
from harness.measure.benchmark import STOPWATCH
from harness.measure.clock import calibrated, now_ns
from harness.measure.collector import Collector
from harness.measure.record import Clock, Facts
from harness.network.cubenet import NOTHING
from harness.network.policy import Policy
from harness.network.protocol import Network
from harness.procedures import packet_filters
from harness.procedures.peers import build
from harness.rig.info import RigInfo
from harness.rig.recorder import RigRun

CHANGES = {"smoke": 200, "quick": 1200, "full": 4800}
"""More than a thousand: one during which the sender was not let run shows nothing."""


def planned(options: Mapping[str, str], profile: str = "quick") -> int:
    """How many changes of each kind; UsageError unless that is one or more, and the rate too."""
    for name in ("changes", "rate"):
        given = options.get(name, "")
        if given and not (given.isdecimal() and int(given) > 0):
            raise UsageError(f"--{name} {given}: there must be one or more")
    asked = options.get("changes", "")
    return int(asked) if asked else CHANGES[profile]


RIG = RigInfo(
    id="policy-enforcement",
    title="From which packet on a changed policy is obeyed",
    claims=("coppice-policy-enforcement",),
    tools=packet_filters.COMPILER,
    requirements=packet_filters.requirements,
    check=planned,
    options={
        "changes": "of each kind; fewer than a thousand tell little (policy-enforcement)",
        "rate": "datagrams a second at most, where two cores cannot send and be asked at once",
    },
    measured_alike=(
        "c9211fadafad84cb5b13273fd6e04c0178736af87144a3729f2afc25c38e712f",
        "d3a0567b2d9b04ad4bb0538bd10622f5fb5d32014ea8822d7a3e4cce9d02e528",
        "d31669970614d46bd1be98e5933319ca097fe436ccee5e79e86c9e0ba6b50f43",
    ),
)
KEPT, FIRST, SECOND, NEVER = PORTS = (9001, 9002, 9003, 9004)
LENGTHS = (2, 1000)
"""Entries of each policy: a short list, and one that is a set of its own."""
IN_FORCE_S = 0.002
CLAIMED_LENGTH = 1000
ONE_STEP = str(packet_filters.FACTS["transport"])
ACROSS, TWO_STEPS = f"{ONE_STEP}, across sets", f"{ONE_STEP}, in two steps"
CONTROLS = 100
"""Changes in two steps."""


@dataclass(frozen=True)
class Case:
    """How long the lists are, and whether they are changed in one step; how many datagrams a second
    are sent at most, 0 where only a core is the limit."""

    length: int
    transport: str
    changes: int
    rate: int = 0

    @property
    def in_force_s(self) -> float:
        """How long a policy stays: for some datagrams of each port, however few are sent."""
        return max(IN_FORCE_S, 4 * len(PORTS) / self.rate) if self.rate else IN_FORCE_S

    @property
    def dimensions(self) -> Facts:
        limit: Facts = {"rate": self.rate} if self.rate else {}
        return {**packet_filters.FACTS, "transport": self.transport, "n": self.length, **limit}


@dataclass(frozen=True)
class Change:
    """One call: when it began and returned, and which port is allowed from then on."""

    called_ns: int
    returned_ns: int
    allowed: int
    denied: int


def policies(address: str, case: Case) -> Sequence[Policy]:
    """Both policies, each with as many services of others as make up the length."""
    fill = [f"192.0.2.{1 + number % 250} tcp/{1000 + number}" for number in range(case.length - 2)]
    prefix = str(ip_network(f"{address}/24", strict=False))
    second = prefix if case.transport == ACROSS else address
    return [
        Policy.of([f"{where} udp/{KEPT}", f"{where} udp/{port}", *fill])
        for where, port in ((address, FIRST), (second, SECOND))
    ]


@dataclass(frozen=True)
class Traffic:
    """What was sent, by number: when; and which of it arrived."""

    sent_ns: Sequence[int]
    arrived: bytearray

    def port(self, number: int) -> int:
        return PORTS[number % len(PORTS)]

    def between(self, start_ns: int, end_ns: int) -> range:
        """The numbers of what was sent, and gone, from one time up to another."""
        begin = bisect.bisect_left(self.sent_ns, start_ns)
        # One packet has gone when the time of the next is read.
        return range(begin, bisect.bisect_left(self.sent_ns, end_ns, begin) - 1)


def flip(net: Network, run: Run, case: Case, stack: ExitStack) -> tuple[Traffic, Sequence[Change]]:
    """Send, and change the policy so many times; what happened."""
    answers = stack.enter_context(packet_filters.open_endpoint(run, net))
    asks = stack.enter_context(packet_filters.open_endpoint(run, net))
    first, second = policies(answers.address, case)
    net.apply(asks.id, first)
    sender = stack.enter_context(packet_filters.peer(run, asks))
    receiver = stack.enter_context(packet_filters.peer(run, answers))
    sender.pin(0)
    receiver.pin(1)
    ports = [str(port) for port in PORTS]
    arrived, sent = run.directory / f"arrived-{asks.id}", run.directory / f"sent-{asks.id}"
    sink = receiver.start([str(build("sink", run.directory)), str(arrived), *ports], listens=True)
    _ready(sink)
    flood = sender.start(
        [str(build("flood", run.directory)), answers.address, str(sent), str(case.rate), *ports],
        listens=True,
    )
    _ready(flood)
    made = []
    for turn in range(case.changes + 2):  # the first and the last have no neighbour to end them
        time.sleep(case.in_force_s)
        called = now_ns()
        if case.transport == TWO_STEPS:
            net.apply(asks.id, NOTHING)
        net.apply(asks.id, first if turn % 2 else second)
        allowed, denied = (FIRST, SECOND) if turn % 2 else (SECOND, FIRST)
        made.append(Change(called, now_ns(), allowed, denied))
    _finish(flood)
    time.sleep(IN_FORCE_S)
    lost = int(_finish(sink))
    if lost:
        raise SandboxError(f"the receiver had no room for {lost} datagrams: nothing can be said")
    return _traffic(sent, arrived), made


def _ready(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout
    said = process.stdout.readline()
    if said != b"ready\n":
        raise SandboxError(f"no traffic: {(said + process.stdout.read()).decode()}")


def _finish(process: subprocess.Popen[bytes]) -> str:
    said, _ = process.communicate(timeout=60)
    if process.returncode:
        raise SandboxError(f"traffic ended with {process.returncode}: {said.decode()}")
    return said.decode()


def _traffic(sent: Path, arrived: Path) -> Traffic:
    times, numbers = array.array("Q"), array.array("Q")
    times.frombytes(sent.read_bytes())
    numbers.frombytes(arrived.read_bytes())
    marks = bytearray(len(times))
    for number in numbers:
        marks[number] = 1
    return Traffic(times, marks)


@dataclass(frozen=True)
class Verdict:
    """What one change did to packets. `obeyed_ns` counts from the call's return."""

    allowing_ns: int | None
    denying_ns: int | None
    leaked: int
    torn: int
    after: int
    """Packets that were sent after the return: without one nothing is shown."""


def verdicts(traffic: Traffic, changes: Sequence[Change]) -> Iterator[Verdict]:
    """Each change, judged by what was sent from halfway after the one before to the next call."""
    ends = [one.called_ns for one in changes[1:]]
    starts = [one.returned_ns for one in changes[:-1]]
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
    for one in verdicts(traffic, changes):
        reason = "nothing was sent between this call's return and the next call"
        for kind, nanoseconds in (("allow", one.allowing_ns), ("deny", one.denying_ns)):
            if nanoseconds is None:
                into.fail("enforcement", "s", reason, **by, change=kind)
            else:
                into.add("enforcement", "s", [nanoseconds * 1e-9], **by, change=kind)
        for metric, count in (("leaked-packets", one.leaked), ("torn-packets", one.torn)):
            if one.after or count:
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
    asked = rig_run.option("changes") or ""
    limit = rig_run.option("rate") or ""
    many = planned({"changes": asked, "rate": limit}, profile)
    rate = int(limit or 0)
    into = Collector()
    with ExitStack() as stack:
        net = stack.enter_context(packet_filters.open_network(run))
        build("flood", run.directory)
        build("sink", run.directory)
        rig_run.prepared((), None, ())
        rig_run.begin()
        cases = [Case(length, ONE_STEP, many, rate) for length in LENGTHS]
        cases.append(Case(LENGTHS[0], ACROSS, many, rate))
        cases += [Case(length, TWO_STEPS, min(CONTROLS, many), rate) for length in LENGTHS]
        seen = [(case, *flip(net, run, case, stack)) for case in cases]
        rig_run.end()
        for case, traffic, changes in seen:
            collect(traffic, changes, case.dimensions, into)
    series = into.series
    record = rig_run.write(RIG, Path(__file__), series, clock())
    claimed = next(
        one
        for one in series
        if (one.metric, one.dimensions.get("change")) == ("enforcement", "deny")
        and (one.dimensions["n"], one.dimensions["transport"]) == (CLAIMED_LENGTH, ONE_STEP)
    )
    assert claimed.samples, "no packet was sent between two changes"
    rig_run.deliver(benchmark, claimed, record)


def clock() -> Clock:
    return calibrated(
        "enforcement",
        "the return of the call that changes the policy",
        {
            "enforcement": "the first packet sent after it that obeys was sent",
            "leaked-packets": "the next change is called: packets counted up to there",
            "torn-packets": "the next change is called: packets counted up to there",
            "policy-update": "counts from the call to its return",
            "sent": "datagrams over the seconds from the first to the last",
        },
    )

"""Round trips of one byte between two sandboxes, along the ladder from loopback to microVMs.

netperf's TCP_RR says its percentiles, of its own histogram in whole microseconds: one sample a
pass. Beside it `exchange` times each round trip by itself, in nanoseconds: those are raw samples.
The ways take turns, forward and back, so that drift is everybody's.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from harness.errors import SandboxError
from harness.host.process import need
from harness.host.run import Run
from harness.measure.benchmark import STOPWATCH
from harness.measure.clock import calibrated
from harness.measure.collector import Collector
from harness.measure.record import Clock, Facts
from harness.network.cubenet import open_cubenet
from harness.network.requirements import requirements
from harness.procedures.linux_only import require_linux
from harness.procedures.network_paths import OpenPath, open_paths
from harness.procedures.peers import build, eventually
from harness.rig.info import RigInfo
from harness.rig.recorder import RigRun

RIG = RigInfo(
    id="net-rtt",
    title="Round trip between two sandboxes",
    claims=("coppice-network-rtt",),
    tools=("netperf", "netserver", "musl-gcc"),
    requirements=requirements,
    measured_alike=(
        "367bf8f60151c349153ccafbaa860de7672286082abcc25acb0fdfcf1a5e294c",
        "e9c3aaf7d6ebb12c0ea7567538ea101cc8e1841b98bd24ac8112d5694347c354",
        "af8bea9cce41c5d5b21c9c2cb12920320546aee37a3ffd5075174d3f4b483f97",
    ),
)
NETPERF_PORT, EXCHANGE_PORT = "12865", "12900"
STATISTICS = {
    "P50_LATENCY": "p50",
    "P90_LATENCY": "p90",
    "P99_LATENCY": "p99",
    "STDDEV_LATENCY": "stddev",
    "MEAN_LATENCY": "mean",
}
MICROSECOND = 1e-6
TIMEOUT_S = 60.0
CLAIMED = {"tool": "exchange", "path": "policy", "cores": 1}
"""What pytest-benchmark shows: it holds one duration per test."""


@dataclass(frozen=True)
class Plan:
    """Passes through all ways, seconds of netperf in each, and round trips of `exchange`."""

    passes: int
    seconds: int
    exchanges: int
    keep: int


# Of the exchanges every tenth is kept: a record holds them all, and a page draws them.
PLANS = {
    "smoke": Plan(1, 1, 200, 10),
    "quick": Plan(3, 1, 2000, 10),
    "full": Plan(20, 2, 4000, 10),
}
IN_GUESTS = 10
"""How many times fewer exchanges between microVMs: an emulated one takes so much longer."""


@dataclass(frozen=True)
class Caller:
    """One way with its servers running, and how their clients are called there."""

    way: OpenPath
    netperf: Sequence[str]
    exchange: Sequence[str]

    def by(self, tool: str, statistic: str | None = None) -> Facts:
        """The dimensions of what a tool says of this way."""
        said = {"statistic": statistic} if statistic else {}
        return {**self.way.dimensions, "tool": tool, **said}


def caller(way: OpenPath, own: Path) -> Caller:
    """Start both servers and wait until they answer."""
    asks, answers = way.asks, way.answers
    answers.serve([*answers.equip("netserver"), "-D", "-4", "-p", NETPERF_PORT])
    answers.serve([*answers.equip(own), "serve", answers.address, EXCHANGE_PORT])
    found = Caller(way, asks.equip("netperf"), asks.equip(own))
    eventually(asks, [*found.exchange, "ask", answers.address, EXCHANGE_PORT, "1", "1"])
    way.pin()
    return found


def netperf(one: Caller, plan: Plan, into: Collector) -> None:
    """One run of TCP_RR: its percentiles, and its rate."""
    words = [*one.netperf, "-4", "-H", one.way.answers.address, "-p", NETPERF_PORT, "-t", "TCP_RR"]
    words += ["-l", str(plan.seconds), "-P", "0", "--", "-r", "1,1"]
    words += ["-o", ",".join([*STATISTICS, "TRANSACTION_RATE"])]
    try:
        said = one.way.asks.run(words, plan.seconds + TIMEOUT_S).strip().splitlines()[-1]
        values = [float(value) for value in said.split(",")]
    except (SandboxError, ValueError, IndexError) as error:
        for name in STATISTICS.values():
            into.fail("rtt", "s", f"netperf: {error.args[0]}", **one.by("netperf", name))
        return
    for name, value in zip(STATISTICS.values(), values, strict=False):
        into.add("rtt", "s", [value * MICROSECOND], **one.by("netperf", name))
    into.add("transactions", "1/s", values[-1:], (), "higher", **one.by("netperf"))


def exchange(one: Caller, plan: Plan, into: Collector) -> None:
    """Round trips timed one by one."""
    fewer = IN_GUESTS if one.way.path == "microvm" else 1
    count, keep = plan.exchanges // fewer, plan.keep // fewer
    words = [*one.exchange, "ask", one.way.answers.address, EXCHANGE_PORT, str(count), str(keep)]
    try:
        said = one.way.asks.run(words, TIMEOUT_S)
        into.add("rtt", "s", [int(line) * 1e-9 for line in said.split()], **one.by("exchange"))
    except SandboxError as error:
        into.fail("rtt", "s", f"exchange: {error.args[0]}", **one.by("exchange"))


@pytest.mark.benchmark(timer=STOPWATCH)
def test_net_rtt(benchmark: BenchmarkFixture, run: Run, rig_run: RigRun, profile: str) -> None:
    require_linux()
    plan = PLANS[profile]
    for tool in RIG.tools:
        need(tool)
    into = Collector()
    with ExitStack() as stack:
        net = stack.enter_context(open_cubenet(run))
        own = build("exchange", run.directory)
        found = [caller(way, own) for way in open_paths(run, net, stack)]
        rig_run.prepared((), None, ("netperf", "qemu-system-x86_64"))
        rig_run.begin()
        for number in range(plan.passes):
            for one in found if number % 2 == 0 else reversed(found):
                netperf(one, plan, into)
                exchange(one, plan, into)
        rig_run.end()
    series = into.series
    record = rig_run.write(RIG, Path(__file__), series, clock())
    claimed = [one for one in series if one.dimensions == CLAIMED]
    assert claimed and claimed[0].samples, "no round trip under policy was measured"
    rig_run.deliver(benchmark, claimed[0], record)


def clock() -> Clock:
    return calibrated(
        "tcp-rr",
        "the one byte of the request is written",
        {
            "rtt": "the one byte of the response has been read",
            "transactions": "netperf's count over its seconds",
        },
    )

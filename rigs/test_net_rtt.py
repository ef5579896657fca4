"""Round trips of one byte between two sandboxes, over every path from loopback to microVMs.

netperf's TCP_RR reports percentiles from its own histogram, in whole microseconds: one sample a
pass. `exchange` times every round trip in nanoseconds: raw samples. The paths are visited in turn,
forwards and backwards, so that drift affects all of them alike.
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
from harness.paths import cache_directory
from harness.procedures.linux_only import require_linux
from harness.procedures.network_paths import OpenPath, open_paths
from harness.procedures.peers import build, eventually
from harness.rig.info import RigInfo
from harness.rig.recorder import RigRun
from harness.sandbox.qemu.accelerator import of_microvms

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
        "478634e6f4d83fe39a2a0e540f25b7e442cca51c663323fc501ff783d700acf6",
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
"""The series given to pytest-benchmark, which stores only one per test."""


@dataclass(frozen=True)
class Plan:
    """Passes over all paths, seconds of netperf on each, and round trips of `exchange`, of which
    every `keep`-th is stored."""

    passes: int
    seconds: int
    exchanges: int
    keep: int


# A tenth of the exchanges suffices for the record and for the charts drawn from it.
PLANS = {
    "smoke": Plan(1, 1, 200, 10),
    "quick": Plan(3, 1, 2000, 10),
    "full": Plan(20, 2, 4000, 10),
}
IN_GUESTS = 10
"""By how much the exchanges between microVMs are divided: emulated ones take far longer."""


@dataclass(frozen=True)
class Client:
    """A path with its servers running, and the argv of each client."""

    path: OpenPath
    netperf: Sequence[str]
    exchange: Sequence[str]

    def dimensions(self, tool: str, statistic: str | None = None) -> Facts:
        """The dimensions of a tool's figures for this path."""
        own = {"statistic": statistic} if statistic else {}
        return {**self.path.dimensions, "tool": tool, **own}


def client(path: OpenPath, own: Path) -> Client:
    """Start both servers and wait until they answer."""
    asks, answers = path.asks, path.answers
    answers.serve([*answers.equip("netserver"), "-D", "-4", "-p", NETPERF_PORT])
    answers.serve([*answers.equip(own), "serve", answers.address, EXCHANGE_PORT])
    made = Client(path, asks.equip("netperf"), asks.equip(own))
    eventually(asks, [*made.exchange, "ask", answers.address, EXCHANGE_PORT, "1", "1"])
    path.pin()
    return made


def netperf(client: Client, plan: Plan, into: Collector) -> None:
    """One run of TCP_RR: its percentiles and its rate."""
    address = client.path.answers.address
    argv = [*client.netperf, "-4", "-H", address, "-p", NETPERF_PORT, "-t", "TCP_RR"]
    argv += ["-l", str(plan.seconds), "-P", "0", "--", "-r", "1,1"]
    argv += ["-o", ",".join([*STATISTICS, "TRANSACTION_RATE"])]
    try:
        output = client.path.asks.run(argv, plan.seconds + TIMEOUT_S).strip().splitlines()[-1]
        values = [float(value) for value in output.split(",")]
    except (SandboxError, ValueError, IndexError) as error:
        for name in STATISTICS.values():
            into.fail("rtt", "s", f"netperf: {error.args[0]}", **client.dimensions("netperf", name))
        return
    for name, value in zip(STATISTICS.values(), values, strict=False):
        into.add("rtt", "s", [value * MICROSECOND], **client.dimensions("netperf", name))
    into.add("transactions", "1/s", values[-1:], (), "higher", **client.dimensions("netperf"))


def exchange(client: Client, plan: Plan, into: Collector) -> None:
    """Round trips timed individually."""
    fewer = IN_GUESTS if client.path.path == "microvm" else 1
    count, keep = plan.exchanges // fewer, plan.keep // fewer
    address = client.path.answers.address
    argv = [*client.exchange, "ask", address, EXCHANGE_PORT, str(count), str(keep)]
    dimensions = client.dimensions("exchange")
    try:
        output = client.path.asks.run(argv, TIMEOUT_S)
        into.add("rtt", "s", [int(line) * 1e-9 for line in output.split()], **dimensions)
    except SandboxError as error:
        into.fail("rtt", "s", f"exchange: {error.args[0]}", **dimensions)


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
        clients = [client(path, own) for path in open_paths(run, net, stack)]
        guests = any(each.path.path == "microvm" for each in clients)
        ran_by = of_microvms(run, cache_directory()) if guests else None
        rig_run.prepared((), ran_by, ("netperf", "qemu-system-x86_64"))
        rig_run.begin()
        for number in range(plan.passes):
            for each in clients if number % 2 == 0 else reversed(clients):
                netperf(each, plan, into)
                exchange(each, plan, into)
        rig_run.end()
    series = into.series
    record = rig_run.write(RIG, Path(__file__), series, clock())
    claimed = [found for found in series if found.dimensions == CLAIMED]
    assert claimed and claimed[0].samples, "no round trip with a policy in force was measured"
    rig_run.deliver(benchmark, claimed[0], record)


def clock() -> Clock:
    return calibrated(
        "tcp-rr",
        "the byte of the request is written",
        {
            "rtt": "the byte of the response has been read",
            "transactions": "netperf's count over its seconds",
        },
    )

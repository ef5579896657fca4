"""How much one connection carries between two sandboxes, and eight: the same ladder, by iperf3.

Beside each throughput stand what was sent again and what both ends cost in processor time, as
iperf3 says. The ways take turns, forward and back.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from harness.procedures.peers import eventually
from harness.rig.info import RigInfo
from harness.rig.recorder import RigRun

RIG = RigInfo(
    id="net-throughput",
    title="Throughput between two sandboxes",
    claims=("coppice-network-throughput",),
    tools=("iperf3",),
    requirements=requirements,
    measured_alike=(
        "d75604e6b0b8dc84f82e31c68563399152837996179dcc615ea6c4db1d114b2b",
        "9aa71a2d08dae48c0bc4c04daf4ea19814a33df7eb032034ec36ac24a51200b2",
        "2f76d64320ebe885814de47be86688d301ad795ad82b66b1a41a54081b3ae6c8",
    ),
)
PORT = "5201"
STREAMS = (1, 8)
TIMEOUT_S = 60.0
BITS = 8


@dataclass(frozen=True)
class Plan:
    """Passes through all ways, and seconds of each run, of which the first part is left out."""

    passes: int
    seconds: int
    omitted: int


PLANS = {"smoke": Plan(1, 1, 0), "quick": Plan(2, 1, 0), "full": Plan(10, 3, 1)}


@dataclass(frozen=True)
class Caller:
    """One way with its server running, and how the client is called there."""

    way: OpenPath
    iperf3: Sequence[str]

    def by(self, streams: int) -> Facts:
        return {**self.way.dimensions, "streams": streams, "tool": "iperf3"}


def caller(way: OpenPath) -> Caller:
    """Start the server and wait until it answers."""
    way.answers.serve([*way.answers.equip("iperf3"), "-s", "-4", "-p", PORT])
    found = Caller(way, way.asks.equip("iperf3"))
    eventually(way.asks, [*found.iperf3, "-c", way.answers.address, "-p", PORT, "-n", "1K"])
    way.pin()
    return found


def measure(one: Caller, streams: int, plan: Plan, into: Collector) -> None:
    """One run of iperf3."""
    words = [*one.iperf3, "-c", one.way.answers.address, "-p", PORT, "-J", "-t", str(plan.seconds)]
    words += ["-O", str(plan.omitted), "-P", str(streams)]
    by = one.by(streams)
    try:
        end = _end(one.way.asks.run(words, plan.seconds + plan.omitted + TIMEOUT_S))
    except (SandboxError, ValueError, KeyError) as error:
        into.fail("throughput", "bytes/s", f"iperf3: {error.args[0]}", "higher", **by)
        return
    # What has arrived, not what was given to the kernel.
    received = end["sum_received"]["bits_per_second"] / BITS
    into.add("throughput", "bytes/s", [received], (), "higher", **by)
    into.add("retransmits", "1", [end["sum_sent"]["retransmits"]], **by)
    for side, name in (("asks", "host_total"), ("answers", "remote_total")):
        share = end["cpu_utilization_percent"][name] / 100
        into.add("cpu", "1", [share], **by, end=side)


def _end(said: str) -> dict[str, Any]:
    report = json.loads(said)
    if "error" in report:
        raise SandboxError(report["error"])
    end: dict[str, Any] = report["end"]
    return end


@pytest.mark.benchmark(timer=STOPWATCH)
def test_net_throughput(
    benchmark: BenchmarkFixture, run: Run, rig_run: RigRun, profile: str
) -> None:
    require_linux()
    plan = PLANS[profile]
    for tool in RIG.tools:
        need(tool)
    into = Collector()
    with ExitStack() as stack:
        net = stack.enter_context(open_cubenet(run))
        found = [caller(way) for way in open_paths(run, net, stack)]
        rig_run.prepared((), None, ("iperf3", "qemu-system-x86_64"))
        rig_run.begin()
        for number in range(plan.passes):
            for one in found if number % 2 == 0 else reversed(found):
                for streams in STREAMS:
                    measure(one, streams, plan, into)
        rig_run.end()
    series = into.series
    record = rig_run.write(RIG, Path(__file__), series, clock())
    claimed = [
        one
        for one in series
        if one.metric == "throughput"
        and (one.dimensions["path"], one.dimensions["streams"]) == ("policy", 1)
    ]
    assert claimed and claimed[0].samples, "no throughput under policy was measured"
    # pytest-benchmark holds durations: that of a gigabyte at the rate measured.
    durations = [1e9 / rate for rate in claimed[0].samples]
    rig_run.deliver(benchmark, claimed[0], record, durations)


def clock() -> Clock:
    return calibrated(
        "throughput",
        "iperf3 begins to send, or what it was told to omit is over",
        {
            "throughput": "bytes that have arrived, over iperf3's seconds",
            "retransmits": "segments sent again in that time",
            "cpu": "share of a processor that an end used in that time",
        },
    )

"""TCP throughput between two sandboxes with one connection and with eight, measured by iperf3.

The same paths as for round trips (test_net_rtt.py), visited in turn, forwards and backwards. With
each throughput, iperf3 reports retransmissions and the CPU time of both ends.
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
from harness.paths import cache_directory
from harness.procedures.linux_only import require_linux
from harness.procedures.network_paths import OpenPath, open_paths
from harness.procedures.peers import eventually
from harness.rig.info import RigInfo
from harness.rig.recorder import RigRun
from harness.sandbox.qemu.accelerator import of_microvms

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
        "a6b6c6a1ec00bd5e6f96492ebd4457b4caafec9ad2945dbaa294b7406fa4a20c",
    ),
)
PORT = "5201"
STREAMS = (1, 8)
TIMEOUT_S = 60.0
BITS = 8


@dataclass(frozen=True)
class Plan:
    """Passes over all paths, seconds of each run, and seconds before these that do not count."""

    passes: int
    seconds: int
    omitted: int


PLANS = {"smoke": Plan(1, 1, 0), "quick": Plan(2, 1, 0), "full": Plan(10, 3, 1)}


@dataclass(frozen=True)
class Client:
    """A path with its server running, and the argv of the client."""

    path: OpenPath
    iperf3: Sequence[str]

    def dimensions(self, streams: int) -> Facts:
        return {**self.path.dimensions, "streams": streams, "tool": "iperf3"}


def client(path: OpenPath) -> Client:
    """Start the server and wait until it answers."""
    path.answers.serve([*path.answers.equip("iperf3"), "-s", "-4", "-p", PORT])
    made = Client(path, path.asks.equip("iperf3"))
    eventually(path.asks, [*made.iperf3, "-c", path.answers.address, "-p", PORT, "-n", "1K"])
    path.pin()
    return made


def measure(client: Client, streams: int, plan: Plan, into: Collector) -> None:
    """One run of iperf3."""
    address = client.path.answers.address
    argv = [*client.iperf3, "-c", address, "-p", PORT, "-J", "-t", str(plan.seconds)]
    argv += ["-O", str(plan.omitted), "-P", str(streams)]
    by = client.dimensions(streams)
    try:
        end = _end(client.path.asks.run(argv, plan.seconds + plan.omitted + TIMEOUT_S))
    except (SandboxError, ValueError, KeyError) as error:
        into.fail("throughput", "bytes/s", f"iperf3: {error.args[0]}", "higher", **by)
        return
    # Bytes that have arrived, not bytes handed to the sender's kernel.
    received = end["sum_received"]["bits_per_second"] / BITS
    into.add("throughput", "bytes/s", [received], (), "higher", **by)
    into.add("retransmits", "1", [end["sum_sent"]["retransmits"]], **by)
    for side, name in (("asks", "host_total"), ("answers", "remote_total")):
        share = end["cpu_utilization_percent"][name] / 100
        into.add("cpu", "1", [share], **by, end=side)


def _end(output: str) -> dict[str, Any]:
    report = json.loads(output)
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
        clients = [client(path) for path in open_paths(run, net, stack)]
        guests = any(each.path.path == "microvm" for each in clients)
        ran_by = of_microvms(run, cache_directory()) if guests else None
        rig_run.prepared((), ran_by, ("iperf3", "qemu-system-x86_64"))
        rig_run.begin()
        for number in range(plan.passes):
            for each in clients if number % 2 == 0 else reversed(clients):
                for streams in STREAMS:
                    measure(each, streams, plan, into)
        rig_run.end()
    series = into.series
    record = rig_run.write(RIG, Path(__file__), series, clock())
    claimed = [
        found
        for found in series
        if found.metric == "throughput"
        and (found.dimensions["path"], found.dimensions["streams"]) == ("policy", 1)
    ]
    assert claimed and claimed[0].samples, "no throughput with a policy in force was measured"
    # pytest-benchmark stores durations: here of a gigabyte at the measured rate.
    durations = [1e9 / rate for rate in claimed[0].samples]
    rig_run.deliver(benchmark, claimed[0], record, durations)


def clock() -> Clock:
    return calibrated(
        "throughput",
        "iperf3 begins to send, or the seconds that it omits are over",
        {
            "throughput": "bytes that have arrived, over iperf3's seconds",
            "retransmits": "segments retransmitted in that time",
            "cpu": "share of one CPU that an end used in that time",
        },
    )

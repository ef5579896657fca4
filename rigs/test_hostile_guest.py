"""Guests that break the protocol: what they cost their gateway, and whether errors are typed.

A gateway serves programs in the place of envd, each of which breaks the protocol in one way, while
another sandbox runs commands. Then all calls of the agent's client and of envd's get malformed
frames; a call may return, or raise an error that the harness defines for it. No sandbox is real, so
this runs on every host.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from harness.errors import CoppiceError
from harness.gateway.gateway_process import running_gateway
from harness.gateway.hostile.cases import CASES, GROWTH_MAX, Attacks
from harness.gateway.requirements import packages
from harness.host.process import run as run_program
from harness.host.run import Run
from harness.measure.benchmark import STOPWATCH
from harness.measure.clock import calibrated
from harness.measure.collector import Collector
from harness.measure.record import Clock
from harness.rig.info import RigInfo, seed
from harness.rig.recorder import RigRun

SECONDS = {"smoke": 0.2, "quick": 20.0, "full": 40.0}
"""How long each attack lasts."""
FRAMES = {"smoke": 2_000, "quick": 100_000, "full": 500_000}
LIMIT_S = 840.0
"""No attack begins later than this."""


RIG = RigInfo(
    id="hostile-guest",
    title="Guests that break the protocol",
    claims=(),
    requirements=packages,
    options={"seed": "the seed of the malformed frames, to repeat them"},
    check=seed,
    long=True,
    measured_alike=("3e296956d94cde010312e45eedd087d2a93ecb92f3c52b6f73083c0e971dc04a",),
)


def attack(run: Run, seconds: float, into: Collector, show_progress: Callable[[str], None]) -> None:
    """One attack after the other on one gateway; its memory is compared with that at its start."""
    deadline = time.monotonic() + LIMIT_S
    with running_gateway(run, program=("harness.gateway.hostile",)) as served:
        attacks = Attacks(served)
        for number, case in enumerate(CASES, 1):
            if time.monotonic() > deadline:
                into.fail("growth", "bytes", "no time was left for it", case=case.name)
                continue
            show_progress(f"{case.name}: attack {number} of {len(CASES)}")
            try:
                outcome = attacks.run(case, seconds)
            except CoppiceError as error:
                into.fail("growth", "bytes", str(error), case=case.name)
                into.broken.append(f"{case.name}: {error}")
                continue
            into.add("growth", "bytes", [outcome.growth], case=case.name)
            into.add("reply", "s", outcome.replies, case=case.name)
            into.broken += [f"{case.name}: {fault}" for fault in outcome.faults]
        if "Traceback" in served.log_tail():
            into.broken.append(f"the gateway's log has a traceback: {served.log_tail()[-500:]}")


def send_frames(number: int, frames: int, into: Collector) -> None:
    """Malformed frames, in a process of their own."""
    module = "harness.gateway.hostile.fuzz"
    report = json.loads(run_program(sys.executable, "-m", module, str(number), str(frames)))
    into.add("frames", "1", [report["frames"]], (), "higher")
    into.add("untyped", "1", [len(report["defects"])])
    into.broken += report["defects"]
    by_way: dict[str, int] = {}
    for _, error, count in report["ends"]:
        by_way[error or "returned"] = by_way.get(error or "returned", 0) + count
    for way, count in sorted(by_way.items()):
        into.add("calls", "1", [count], (), "higher", end=way)


@pytest.mark.benchmark(timer=STOPWATCH)
@pytest.mark.timeout(1800)
def test_hostile_guest(
    benchmark: BenchmarkFixture, run: Run, rig_run: RigRun, profile: str
) -> None:
    number = seed(rig_run.options)
    print(f"seed {number}")
    into = Collector()
    rig_run.prepared((), None, ())
    rig_run.begin()
    rig_run.show_progress(f"{FRAMES[profile]} malformed frames")
    send_frames(number, FRAMES[profile], into)
    attack(run, SECONDS[profile], into, rig_run.show_progress)
    rig_run.end()
    series = into.series
    record = rig_run.write(
        RIG, Path(__file__), series, clock(), {"seed": str(number)}, broken=into.broken
    )
    assert not into.broken, "\n".join(into.broken)
    shown = next(found for found in series if found.metric == "reply")
    rig_run.deliver(benchmark, shown, record)


def clock() -> Clock:
    return calibrated(
        "hostile-guest",
        "the request for a command in another sandbox, while a guest attacks the gateway",
        {
            "reply": "the end of the command's stream",
            "growth": "a peak of the gateway's resident memory, above that at its start; below "
            f"{GROWTH_MAX >> 20} MiB",
            "frames": "a count: malformed frames sent to the agent's client and envd's",
            "untyped": "a count: calls that raised anything but an error of the harness, or hung",
            "calls": "a count: calls, by how they ended",
        },
    )

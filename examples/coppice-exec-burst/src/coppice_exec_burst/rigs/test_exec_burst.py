"""How long each of many processes takes in one sandbox, from the request to its output."""

from __future__ import annotations

import secrets
import time
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from harness.errors import WrongAnswer
from harness.host.identity import allocate
from harness.host.run import Run
from harness.measure.benchmark import STOPWATCH
from harness.measure.clock import calibrated, without_collector
from harness.measure.collector import Collector
from harness.paths import cache_directory
from harness.rig.discovery import substrates_of
from harness.rig.info import RigInfo, listed
from harness.rig.recorder import RigRun
from harness.sandbox.protocol import Role, Tier, load

PROCESSES = {"quick": (20,), "full": (200,)}

RIG = RigInfo(
    id="exec-burst",
    title="Processes in a sandbox, one after the other",
    claims=(),
    wants=lambda substrate: substrate.role is not Role.CONTROL and Tier.FULL in substrate.tiers,
    options={"processes": "how many, such as 50"},
    check=lambda options: listed(options, "processes", ()),
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    named = metafunc.config.getoption("--coppice-substrate") or ()
    names = [substrate.name for substrate in substrates_of(RIG, named)]
    metafunc.parametrize("substrate", names)


@pytest.mark.benchmark(timer=STOPWATCH)
def test_exec_burst(
    substrate: str, benchmark: BenchmarkFixture, run: Run, rig_run: RigRun, profile: str
) -> None:
    made_by = load(substrate)
    template = made_by.prepare(run, cache_directory(), Tier.FULL)
    rig_run.prepared(template.images, template.accelerator, made_by.tools)
    given = {"processes": rig_run.option("processes") or ""}
    (count,) = listed(given, "processes", PROCESSES[profile])
    into = Collector(substrate=substrate, tier="full")
    sandbox = made_by.launch(run, template, Tier.FULL, allocate(run.leases, run.id))
    try:
        sandbox.awaken(120)
        sandbox.first_exec("first")
        rig_run.begin()
        with without_collector():
            for _ in range(count):
                word = secrets.token_hex(8)
                start = time.perf_counter()
                done = sandbox.agent.run(["/bin/echo", word])
                seconds = time.perf_counter() - start
                if done.stdout.decode().strip() != word:
                    raise WrongAnswer(f"{sandbox.id}: the process returned {done}")
                into.add("exec", "s", [seconds])
        rig_run.end()
    finally:
        sandbox.destroy()
    clock = calibrated("exec", "the request for a process", {"exec": "its output is there"})
    record = rig_run.write(RIG, Path(__file__), into.series, clock, {"substrate": substrate})
    rig_run.deliver(benchmark, into.series[0], record)

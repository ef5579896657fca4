"""SIGKILL at random moments: what stays behind, and whether anything acknowledged is lost.

Every rig that can run here is started and killed at a random moment; then `coppice clean` runs, and
everything on the host that was not there before counts as left. Gateways are killed while a client
uses them, and started again: sandboxes that the client knows must be there with what it has written
to them. All runs have a runtime directory of their own, so that nothing else is touched.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from harness.gateway.gateway_process import running_gateway
from harness.gateway.kill_storm import TEMPLATE, Client
from harness.gateway.requirements import requirements
from harness.host.leftovers import RUNTIME, reclaim
from harness.host.run import Run
from harness.measure.benchmark import STOPWATCH
from harness.measure.clock import calibrated
from harness.measure.collector import Collector
from harness.measure.record import Clock
from harness.paths import cache_directory
from harness.procedures.host_objects import Scope
from harness.procedures.kill_storm import Outcome, Storm
from harness.procedures.nested_host import nested_host
from harness.rig.discovery import discover
from harness.rig.info import RigInfo, seed
from harness.rig.recorder import RigRun

GATEWAYS = {"gateway-oci": "oci", "gateway-qemu": "qemu"}
"""Victims that are gateways, and the substrates of their sandboxes."""
EACH = {"smoke": 1, "quick": 5, "full": 20}
"""Kills of each victim."""
SMOKE = ("cold-start", "gateway-oci")
TRIES = 4
"""Attempts at a kill, as a victim may end before its moment."""
USE_S = 6.0
"""A gateway is killed at most this long after its client has begun."""
LIMIT_S = {"smoke": 120.0, "quick": 840.0, "full": 3300.0}
"""No kill begins later than this."""


RIG = RigInfo(
    id="kill-storm",
    title="SIGKILL at random moments",
    claims=(),
    requirements=requirements,
    options={"seed": "the seed of the random moments, to repeat a storm"},
    check=seed,
    long=True,
    measured_alike=(
        "39725e1bc59b0e09214df858ab85d862e26e70f618296253f867ca58fae5f95c",
        "49b35ac0e82e7ec86e35a05de6612aae2bd6c82f4af836ad1a07455589443926",
    ),
)


@dataclass
class Measurement:
    """A storm, and where its figures go."""

    storm: Storm
    run: Run
    into: Collector
    show_progress: Callable[[str], None]
    deadline: float

    @property
    def is_over(self) -> bool:
        return time.monotonic() > self.deadline

    def of_commands(self, victims: Sequence[str], each: int) -> None:
        """Kill each rig's command `each` times, in turn."""
        for number in range(1, each + 1):
            for victim in victims:
                if not self.is_over:
                    self.show_progress(f"{victim}: kill {number} of {each}")
                    self._kill(victim)

    def _kill(self, victim: str) -> None:
        results = self.storm.scope.nested / "results"
        for _ in range(TRIES):
            outcome = self.storm.kill(victim, ["run", victim, "--results", str(results)])
            if outcome:
                self.note(outcome)
                return

    def note(self, outcome: Outcome) -> None:
        self.into.add("left", "1", [len(outcome.left)], victim=outcome.victim)
        self.into.add("clean", "s", [outcome.clean_s], victim=outcome.victim)
        if outcome.left:
            self.into.broken.append(
                f"{outcome.victim}, killed after {outcome.moment_s:.3f} s, left "
                + ", ".join(outcome.left[:8])
            )

    def of_gateway(self, victim: str, substrate: str, each: int) -> None:
        """Kill and restart one gateway; at last it is killed, and cleaned up after."""
        storm, nested = self.storm, self.storm.scope.nested
        before = storm.objects()
        with running_gateway(
            self.run, "--substrate", substrate, "--pool", "2", "--only", TEMPLATE, "--no-network",
            runtime=nested / RUNTIME,
        ) as served:  # fmt: skip
            client = Client(served, storm.rng, memory=substrate == "qemu")
            for number in range(1, each + 1):
                if self.is_over:
                    break
                self.show_progress(f"{victim}: kill {number} of {each}")
                served.wait_for_pool(TEMPLATE, 1)
                client.use_until_killed(storm.rng.uniform(0, USE_S))
                known = client.count
                began = time.perf_counter()
                served.start()
                self.into.add("restart", "s", [time.perf_counter() - began], victim=victim)
                wrong = client.check()
                self.into.add("lost", "1", [len(wrong)], victim=victim)
                self.into.add("acknowledged", "1", [known], (), "higher", victim=victim)
                self.into.broken += [f"{victim} lost {each}" for each in wrong]
            served.kill()
            self.note(Outcome(victim, 0.0, *storm.clean(before, (served.directory,))))


@pytest.mark.benchmark(timer=STOPWATCH)
@pytest.mark.timeout(3600)
def test_kill_storm(benchmark: BenchmarkFixture, run: Run, rig_run: RigRun, profile: str) -> None:
    number = seed(rig_run.options)
    into = Collector()
    with nested_host() as nested, ExitStack() as stack:
        stack.callback(_empty, nested)
        # Other tests may run beside the smoke profile.
        scope = Scope(nested, cache_directory(), whole_host=profile != "smoke")
        storm = Storm(scope, random.Random(number))
        measurement = Measurement(
            storm, run, into, rig_run.show_progress, time.monotonic() + LIMIT_S[profile]
        )
        commands = [id for id, rig in discover().found.items() if not rig.info.long]
        gateways = dict(GATEWAYS)
        if profile == "smoke":
            commands = [id for id in commands if id in SMOKE]
            gateways = {id: substrate for id, substrate in GATEWAYS.items() if id in SMOKE}
        rig_run.prepared((), None, ())
        rig_run.begin()
        for victim, substrate in gateways.items():
            measurement.of_gateway(victim, substrate, EACH[profile])
        measurement.of_commands(commands, EACH[profile])
        rig_run.end()
    series = into.series
    record = rig_run.write(
        RIG, Path(__file__), series, clock(), {"seed": str(number)}, broken=into.broken
    )
    assert not into.broken, "\n".join(into.broken)
    shown = next(found for found in series if found.metric == "clean")
    rig_run.deliver(benchmark, shown, record)


def _empty(nested: Path) -> None:
    """Remove what the runs in a nested host have left, so that its directory can go."""
    reclaim(nested / RUNTIME)
    for path in (*(nested / RUNTIME).iterdir(), *nested.iterdir()):
        if path.name != RUNTIME:
            shutil.rmtree(path, ignore_errors=True)


def clock() -> Clock:
    return calibrated(
        "kill-storm",
        "the start of `coppice clean`, or of the gateway that is started again",
        {
            "left": "a count: objects on the host after `coppice clean` that were not there before",
            "clean": "the end of `coppice clean`",
            "restart": "the restarted gateway serves",
            "lost": "a count: acknowledged sandboxes that are gone or lack an acknowledged write",
            "acknowledged": "a count: sandboxes that had to survive",
        },
    )

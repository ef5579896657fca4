"""Cold start: from the caller's request until a sandbox has replied, run a process, touched memory.

One test per substrate, tier and concurrency; each writes one run record with the whole ladder.
Afterwards, one at a time, cold starts whose first program no rehearsal has run
(harness/procedures/unrehearsed.py). No test fails because something is slow.
"""

from __future__ import annotations

import enum
import functools
import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from harness.errors import SandboxError
from harness.host.run import Run
from harness.measure.benchmark import STOPWATCH
from harness.measure.clock import cold_start_clock, without_collector
from harness.measure.record import Facts, Failure, Scalar, Series
from harness.paths import cache_directory
from harness.procedures import unrehearsed
from harness.procedures.ladder import RUNGS, Climb, climb_together, conclude, not_offered
from harness.procedures.launcher import Launcher
from harness.rig.discovery import OURS, substrates_of
from harness.rig.info import RigInfo
from harness.rig.recorder import RigRun
from harness.rig.stages import ANSWERED
from harness.rig.tasks import Task
from harness.sandbox.protocol import (
    Role,
    Sharing,
    Substrate,
    Template,
    Tier,
    load,
    registered,
)


def tasks() -> Sequence[Task]:
    """`bench:SUBSTRATE` runs all tiers of a built-in substrate, `bench:SUBSTRATE-TIER` one."""
    listed = []
    for name in registered(OURS):
        about = f"Cold start of {name}"
        listed.append(Task(f"bench:{name}", "cold-start", about, {"substrate": name}))
        for tier in load(name).tiers:
            options = {"substrate": name, "tier": str(tier)}
            about_tier = f"{about}, tier {tier}"
            listed.append(Task(f"bench:{name}-{tier}", "cold-start", about_tier, options))
    return listed


RIG = RigInfo(
    id="cold-start",
    title="Cold start, the whole clock ladder",
    claims=("coppice-cold-start", "cubesandbox-cold-start"),
    wants=lambda substrate: bool(substrate.tiers),
    tasks=tasks,
    measured_alike=(
        "95134dcf0a1175a4c208fcb51177e75dec984bdca18337ce064a359c91b26494",
        "ef52bd1a1b2c2819004f512c8996648866dfaa336172c3126cee8896127fbeb5",
        "53d608701a6365e0c13ae3b6b3b00548f00b5c1d9f355ae132f12d072cc59463",
        "042e4764797b146d2b5b4c00659c9653dec806a7625588a0db87cef2c818023f",
        "eea649ed6a0a3cf045eadb1281ffcf9068bca4bae047974d970e0700cb9ea877",
        "4e6406faa5cee7caf0265fe01ee579caeb762e20b3526d1a6e575c001cfaea74",
        "d8f36071e155ec9f8fa9e3e08cdc9e728f4b7228155e10d22ad7b7c14af4ead2",
    ),
)
TIMEOUT_S = 120.0
CONCURRENCIES = (1, 10, 50)
BATCH = 25
"""Sandboxes kept ready in the pool at concurrency 1."""
WARM_UPS = 10
CLAIMED_RUNG = "first-reply"
"""The series given to pytest-benchmark, which stores only one per test."""

# Attempts per concurrency; 0: not in this profile. The interval of p95 has both bounds from 72
# samples on, that of p99 from 368. Above concurrency 1, separate attempts measure each rung (see
# harness/procedures/ladder.py).
PLANS: dict[str, dict[Tier, dict[int, int]]] = {
    "quick": {
        Tier.FULL: {1: 3, 10: 0, 50: 0},
        Tier.DURABLE_POOL: {1: 8, 10: 0, 50: 0},
        Tier.DURABLE_PREWARM_POOL: {1: 12, 10: 10, 50: 0},
        Tier.PREWARM_POOL: {1: 3, 10: 0, 50: 0},
    },
    "smoke": {
        Tier.FULL: {1: 1, 10: 0, 50: 0},
        Tier.DURABLE_POOL: {1: 2, 10: 0, 50: 0},
        Tier.DURABLE_PREWARM_POOL: {1: 2, 10: 4, 50: 0},
        Tier.PREWARM_POOL: {1: 2, 10: 0, 50: 0},
    },
    "full": {
        Tier.FULL: {1: 30, 10: 30, 50: 50},
        Tier.DURABLE_POOL: {1: 100, 10: 100, 50: 100},
        Tier.DURABLE_PREWARM_POOL: {1: 400, 10: 100, 50: 100},
        Tier.PREWARM_POOL: {1: 400, 10: 30, 50: 50},
    },
}

FORKED = {
    "smoke": {1: 2, 10: 0, 50: 0},
    "quick": {1: 8, 10: 0, 50: 0},
    "full": {1: 400, 10: 100, 50: 100},
}
"""Attempts per concurrency for sandboxes forked on demand."""

OTHER_PROGRAMS = {"smoke": 1, "quick": 8, "full": 80}
"""Attempts with a first program that no rehearsal has run, over all programs, one at a time."""


class Vmm(enum.StrEnum):
    """Where a restored sandbox's VMM comes from: it waits in the pool, the request spawns it, or
    the request forks it from the zygote, a restored sandbox that waits for this."""

    WAITS = "waits"
    SPAWNED = "spawned"
    FORKED = "forked"


@dataclass(frozen=True)
class Case:
    """One combination of dimensions; pytest's `-k` matches its name."""

    substrate: str
    tier: Tier
    concurrency: int
    vmm: Vmm = Vmm.WAITS

    def __str__(self) -> str:
        how = "" if self.vmm is Vmm.WAITS else f"-{self.vmm}"
        return f"{self.substrate}-{self.tier}{how}-cc{self.concurrency}"

    def attempts(self, profile: str) -> int:
        forked = self.vmm is Vmm.FORKED
        return (FORKED[profile] if forked else PLANS[profile][self.tier])[self.concurrency]


def cases(named: Sequence[str] = ()) -> Iterator[Case]:
    """Every combination that the substrates support; if `named` is given, only of those."""
    for substrate in substrates_of(RIG, named):
        name = substrate.name
        for tier, concurrency in itertools.product(substrate.tiers, CONCURRENCIES):
            yield Case(name, tier, concurrency)
            if tier is Tier.DURABLE_POOL and concurrency == 1:
                yield Case(name, tier, concurrency, Vmm.SPAWNED)
            if tier is Tier.DURABLE_PREWARM_POOL and Sharing.FORKED in substrate.sharings:
                yield Case(name, tier, concurrency, Vmm.FORKED)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    named = metafunc.config.getoption("--coppice-substrate") or ()
    metafunc.parametrize("case", list(cases(named)), ids=str)


def attempts(
    case: Case,
    launcher: Launcher,
    substrate: Substrate[Template],
    count: int,
    upto: str,
    announce: Callable[[str], object],
) -> list[Climb]:
    """`count` cold starts up to a rung, in batches, with the garbage collector off."""
    climbs: list[Climb] = []
    while len(climbs) < count:
        batch = min(count - len(climbs), case.concurrency if case.concurrency > 1 else BATCH)
        try:
            launcher.ready(batch)
        except SandboxError as error:
            reason = f"the pool could not be filled: {type(error).__name__}: {error.args[0]}"
            climbs += [Climb({}, reason) for _ in range(batch)]
            continue
        with without_collector():
            for _ in range(batch // case.concurrency or 1):
                together = climb_together(
                    min(case.concurrency, batch),
                    launcher.acquire,
                    upto,
                    TIMEOUT_S,
                    substrate.not_offered,
                )
                announce(ANSWERED)
                conclude(together, launcher.release, substrate.own_kernel)
                climbs += together
    return climbs


def series_of(rung: str, dimensions: Facts, warmup: list[Climb], climbs: list[Climb]) -> Series:
    """The samples of one rung in attempt order; failures keep the index of their attempt."""
    return Series(
        metric=rung,
        unit="s",
        better="lower",
        dimensions=dimensions,
        loop="closed",
        warmup=[climb.rungs[rung] for climb in warmup if rung in climb.rungs],
        samples=[climb.rungs[rung] for climb in climbs if climb.failure is None],
        failures=[Failure(i, climb.failure) for i, climb in enumerate(climbs) if climb.failure],
    )


def measure(case: Case, run: Run, rig_run: RigRun, count: int, others: int) -> list[Series]:
    """Measure one case and return its series; `rig_run` learns the images and the accelerator."""
    substrate = load(case.substrate)
    template = substrate.prepare(run, cache_directory(), case.tier)
    rig_run.prepared(template.images, template.accelerator, substrate.tools)
    dimensions: dict[str, Scalar] = {
        "substrate": case.substrate,
        "tier": str(case.tier),
        "concurrency": case.concurrency,
        "accelerator": template.accelerator,
    }
    if case.tier is Tier.DURABLE_POOL or case.vmm is not Vmm.WAITS:
        dimensions["vmm"] = str(case.vmm)
    series = []
    with ExitStack() as stack:
        launcher = Launcher(
            run,
            substrate,
            template,
            case.tier,
            stack,
            case.concurrency if case.concurrency > 1 else BATCH,
            pooled=case.vmm is Vmm.WAITS,
            forked=case.vmm is Vmm.FORKED,
        )
        start = functools.partial(attempts, case, launcher, substrate, announce=rig_run.announce)
        lacks = substrate.not_offered
        warmup = start(min(case.concurrency, WARM_UPS), "first-exec")
        rig_run.begin()
        # A boot costs far more than the later rungs, so these barely slow other sandboxes' boots.
        if case.concurrency == 1 or case.tier is Tier.FULL:
            climbs = start(count, RUNGS[-1])
            offered = [rung for rung in RUNGS if rung not in lacks]
            series = [series_of(rung, dimensions, warmup, climbs) for rung in offered]
        else:
            for upto in ("first-reply", "first-exec", "first-touch"):
                if upto in lacks:
                    continue
                climbs = start(count, upto)
                rungs = RUNGS[:3] if upto == "first-reply" else (upto,)
                series += [series_of(rung, dimensions, warmup, climbs) for rung in rungs]
        series += [not_offered(rung, why, dimensions) for rung, why in lacks.items()]
        # `noop` has no programs.
        runs_programs = substrate.role is not Role.CONTROL and "first-exec" not in lacks
        if case.concurrency == 1 and runs_programs:
            # Drawn from the run's id, which is in the record.
            chance = random.Random(rig_run.run_id)
            several = unrehearsed.programs(run.directory)
            made = unrehearsed.attempts(
                launcher, several, others, chance, substrate.own_kernel, TIMEOUT_S
            )
            series += unrehearsed.series(made, dimensions)
        rig_run.end()
    return series


@pytest.mark.benchmark(timer=STOPWATCH)
# When every attempt fails nothing is delivered: the record has the reasons, the test fails.
@pytest.mark.filterwarnings("ignore:Benchmark fixture was not used")
def test_cold_start(
    case: Case, benchmark: BenchmarkFixture, run: Run, rig_run: RigRun, profile: str
) -> None:
    count = case.attempts(profile)
    if count == 0:
        pytest.skip(f"not in the {profile} profile: run with --profile full")
    series = measure(case, run, rig_run, count, OTHER_PROGRAMS[profile])
    claimed = next(rung for rung in series if rung.metric == CLAIMED_RUNG)
    repeat = {"substrate": case.substrate, "tier": str(case.tier)}
    clock = cold_start_clock({unrehearsed.METRIC: unrehearsed.STOP})
    record = rig_run.write(RIG, Path(__file__), series, clock, repeat)
    assert claimed.samples, (
        f"no cold start succeeded; the first failure: {claimed.failures[0].reason}"
    )
    rig_run.deliver(benchmark, claimed, record)

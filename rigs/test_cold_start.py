"""Cold start: from the caller's request to a sandbox that has answered, worked, and used memory.

One test per substrate, tier and concurrency; each writes one run record with the whole ladder.
It measures and never judges: nothing here fails because something is slow.
"""

from __future__ import annotations

import enum
import functools
import itertools
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
from harness.procedures.ladder import RUNGS, Climb, climb_together, conclude
from harness.procedures.launcher import Launcher
from harness.rig.discovery import OURS, substrates_of
from harness.rig.info import RigInfo
from harness.rig.recorder import RigRun
from harness.rig.stages import ANSWERED
from harness.rig.tasks import Task
from harness.sandbox.protocol import Sharing, Tier, load, registered


def tasks() -> Sequence[Task]:
    """`bench:SUBSTRATE` runs every tier of a substrate of ours, `bench:SUBSTRATE-TIER` one."""
    found = []
    for name in registered(OURS):
        about = f"Cold start of {name}"
        found.append(Task(f"bench:{name}", "cold-start", about, {"substrate": name}))
        for tier in load(name).tiers:
            options = {"substrate": name, "tier": str(tier)}
            one_tier = f"{about}, tier {tier}"
            found.append(Task(f"bench:{name}-{tier}", "cold-start", one_tier, options))
    return found


RIG = RigInfo(
    id="cold-start",
    title="Cold start, the whole clock ladder",
    claims=("coppice-cold-start", "cubesandbox-cold-start"),
    wants=lambda substrate: bool(substrate.tiers),
    tasks=tasks,
    measured_alike=(
        "ef52bd1a1b2c2819004f512c8996648866dfaa336172c3126cee8896127fbeb5",
        "53d608701a6365e0c13ae3b6b3b00548f00b5c1d9f355ae132f12d072cc59463",
        "042e4764797b146d2b5b4c00659c9653dec806a7625588a0db87cef2c818023f",
    ),
)
TIMEOUT_S = 120.0
CONCURRENCIES = (1, 10, 50)
BATCH = 25
"""Sandboxes that wait at once when they are asked for one by one."""
WARM_UPS = 10
CLAIMED_RUNG = "first-reply"
"""What pytest-benchmark shows: it holds one duration per test."""

# Attempts per concurrency; 0: not in this profile. p95 has both bounds from 72 samples, p99 from
# 368. Above 1 each rung has attempts of its own (see harness/procedures/ladder.py).
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
"""The same for sandboxes forked on demand."""


class Vmm(enum.StrEnum):
    """Where a restored sandbox's VMM comes from: it waits, in its tier's pool; or the request
    spawns it; or the request forks it of the one restored sandbox that waits, the zygote."""

    WAITS = "waits"
    SPAWNED = "spawned"
    FORKED = "forked"


@dataclass(frozen=True)
class Case:
    """One combination of dimensions; its name is what `-k` finds."""

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
    """Every combination of what the substrates can do; of `named` ones, if any are."""
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
    own_kernel: bool,
    count: int,
    upto: str,
    reached: Callable[[str], object],
) -> list[Climb]:
    """`count` cold starts up to a rung, in batches; the collector rests while they run."""
    climbs: list[Climb] = []
    while len(climbs) < count:
        batch = min(count - len(climbs), case.concurrency if case.concurrency > 1 else BATCH)
        try:
            launcher.ready(batch)
        except SandboxError as error:
            why = f"the pool could not be filled: {type(error).__name__}: {error.args[0]}"
            climbs += [Climb({}, why) for _ in range(batch)]
            continue
        with without_collector():
            for _ in range(batch // case.concurrency or 1):
                together = climb_together(
                    min(case.concurrency, batch), launcher.acquire, upto, TIMEOUT_S
                )
                reached(ANSWERED)
                conclude(together, launcher.release, own_kernel)
                climbs += together
    return climbs


def series_of(rung: str, dimensions: Facts, warmup: list[Climb], climbs: list[Climb]) -> Series:
    """The samples of one rung, in the order of the attempts; failed ones keep their place."""
    return Series(
        metric=rung,
        unit="s",
        better="lower",
        dimensions=dimensions,
        loop="closed",
        warmup=[one.rungs[rung] for one in warmup if rung in one.rungs],
        samples=[one.rungs[rung] for one in climbs if one.failure is None],
        failures=[Failure(i, one.failure) for i, one in enumerate(climbs) if one.failure],
    )


def measure(case: Case, run: Run, rig_run: RigRun, count: int) -> list[Series]:
    """Run one case and return its series; the record's images and accelerator are noted."""
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
        some = functools.partial(
            attempts, case, launcher, substrate.own_kernel, reached=rig_run.reached
        )
        warmup = some(min(case.concurrency, WARM_UPS), "first-exec")
        rig_run.begin()
        # A boot outweighs what comes after it, so its later rungs slow nobody's earlier ones.
        if case.concurrency == 1 or case.tier is Tier.FULL:
            climbs = some(count, RUNGS[-1])
            series = [series_of(rung, dimensions, warmup, climbs) for rung in RUNGS]
        else:
            for upto in ("first-reply", "first-exec", "first-touch"):
                climbs = some(count, upto)
                rungs = RUNGS[:3] if upto == "first-reply" else (upto,)
                series += [series_of(rung, dimensions, warmup, climbs) for rung in rungs]
        rig_run.end()
    return series


@pytest.mark.benchmark(timer=STOPWATCH)
# When every attempt fails there is nothing to deliver: the record says so, and the test fails.
@pytest.mark.filterwarnings("ignore:Benchmark fixture was not used")
def test_cold_start(
    case: Case, benchmark: BenchmarkFixture, run: Run, rig_run: RigRun, profile: str
) -> None:
    count = case.attempts(profile)
    if count == 0:
        pytest.skip(f"not in the {profile} profile: run with --profile full")
    series = measure(case, run, rig_run, count)
    claimed = next(one for one in series if one.metric == CLAIMED_RUNG)
    repeat = {"substrate": case.substrate, "tier": str(case.tier)}
    record = rig_run.write(RIG, Path(__file__), series, cold_start_clock(), repeat)
    assert claimed.samples, (
        f"no cold start succeeded, the first because {claimed.failures[0].reason}"
    )
    rig_run.deliver(benchmark, claimed, record)

"""The comparison: every substrate in one interleaved run: start-up, memory, network, durability.

The columns (a substrate in a tier) are visited in the order A B C … C B A, so that drift on the
host affects all of them alike; so are the sizes of fleets. One record holds everything.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from harness.errors import CoppiceError, NotEnoughMemory
from harness.host.memory import available_memory
from harness.host.run import Run
from harness.measure import memory_linux
from harness.measure.benchmark import STOPWATCH
from harness.measure.clock import LADDER, START, calibrated
from harness.measure.collector import Collector
from harness.measure.record import NOT_OFFERED, Clock, Facts, Image, Series
from harness.paths import cache_directory
from harness.procedures import reachability, reboot, unrehearsed
from harness.procedures.columns import TIMEOUT_S, Column, Stand, held_memory, processes_of
from harness.procedures.comparison_plan import (
    CONCURRENCIES,
    ENDS,
    HEAVY_N,
    HEAVY_VISITS,
    PARTS,
    SLOW_RUNG,
    Plan,
    heavy,
    planned,
    runs_fleet,
    slow,
)
from harness.procedures.fleet import Bounds, SandboxFleet, admit, reason
from harness.procedures.ladder import RUNGS, Climb
from harness.rig.info import RigInfo
from harness.rig.recorder import RigRun
from harness.sandbox.oci.plain import run_echo
from harness.sandbox.oci.substrate import OciSubstrate, OciTemplate
from harness.sandbox.protocol import Role, load

ShowProgress = Callable[[str], None]
PAIRS = {"smoke": 1, "quick": 2, "full": 40}
SETTLE_S = 0.1
"""Before every visit: the kernel removes namespaces and mounts after their last process has ended,
and creating new ones blocks until it has finished."""
REST_S = {"smoke": 0.2, "quick": 0.2, "full": 1.0}
"""Between a fleet's start and the reading of its memory."""
READINGS = 5
OTHER_PROGRAMS = {"smoke": 1, "quick": 5, "full": 40}
"""First programs that no rehearsal has run, in each column."""


RIG = RigInfo(
    id="compare",
    title="Comparison: every substrate in one interleaved run",
    claims=("coppice-cold-start", "coppice-density", "cubesandbox-cold-start"),
    options={
        "part": f"parts of the comparison, of {', '.join(PARTS)}",
        "columns": "substrates with tiers, such as docker-full,qemu-durable-prewarm-pool",
        "visits": "visits of each column, at each concurrency",
        "rungs": f"rungs measured above concurrency 1, of {', '.join(ENDS)}",
        "n": "sizes of fleets, such as 8,50",
    },
    check=planned,
    measured_alike=(
        "24b9ec6253172bc00146fe054efac8fec4233f7c25f3194aaea804818f425474",
        "a532161bc8c591b306bbea26466a8eb0e0e14fd1d8ca2980668b5a2065a3266d",
        "72cef04e884cde27a4e9055ddbb6f1de3ca826e8919eac47897bdfb5fc5f29fa",
        "b57ef7d7963db71d6b1db24883858cbe1f52da95a51c84092eb0fa8b70c1f0b2",
        "0d318493a01fc6433ac5b41260de82d557125ea40fb2371e64b3a80fafbff68d",
        "6dacfb89a410a4904f4c5405f9ff0664cef5a4c7cb02e10b927d84bdce860d18",
    ),
)


def clock() -> Clock:
    stops = {rung.name: rung.stop for rung in LADDER}
    stops[unrehearsed.METRIC] = unrehearsed.STOP
    stops["paired-run"] = "a container's first process has returned its output"
    stops["plain-run"] = "`runc run` of an echo in the same bundle has exited"
    return calibrated("compare", START, stops)


def set_up(
    plan: Plan, run: Run, rig_run: RigRun, stack: ExitStack, series: list[Series]
) -> list[Stand]:
    """Every column that can run here. Adds to `series` why each of the others cannot."""
    stands, images, tools = list[Stand](), dict[str, Image](), list[str]()
    accelerators: dict[str, str | None] = {}
    most = max((CONCURRENCIES.get(part, 1) for part in plan.parts), default=1)
    for column in plan.columns:
        try:
            stand = Stand(run, cache_directory(), column, stack, most)
        except CoppiceError as error:
            series += absent(column, " ".join(str(error).split()))
            continue
        stands.append(stand)
        images |= {f"{image.name} {image.sha256}": image for image in stand.template.images}
        tools += stand.substrate.tools
        accelerators[column.substrate] = stand.template.accelerator
    of_guests = next(filter(None, accelerators.values()), None)
    rig_run.prepared(list(images.values()), of_guests, sorted(set(tools)), accelerators)
    return stands


def absent(column: Column, reason: str, **dimensions: int) -> list[Series]:
    """The series that record why a column was not measured."""
    tier = str(column.tier)
    findings = Collector(substrate=column.substrate, tier=tier, reason=reason, **dimensions)
    findings.add("measured-here", "1", [0])
    return findings.series


def there_and_back(stands: Sequence[Stand], visits: int) -> Iterator[Stand]:
    """A B C C B A A B C …: all columns equally often, and none always after the same other."""
    for number in range(visits):
        yield from stands if number % 2 == 0 else reversed(stands)


def cold_starts(
    plan: Plan, part: str, stands: Sequence[Stand], show_progress: ShowProgress
) -> list[Series]:
    """Measure the ladder at one concurrency."""
    concurrency = CONCURRENCIES[part]
    series: list[Series] = []
    chosen = []
    for stand in stands:
        if why := why_left_out(plan, stand, concurrency):
            series += absent(stand.column, why, concurrency=concurrency)
        else:
            chosen.append(stand)
    for upto, visits in plan.visits.get(part, {}).items():
        climbs: dict[Column, list[Climb]] = {stand.column: [] for stand in chosen}
        for number, stand in enumerate(there_and_back(chosen, visits)):
            if number % len(chosen) == 0:
                show_progress(f"{part}, {upto}: round {number // len(chosen) + 1} of {visits}")
            done = climbs[stand.column]
            limit = _visits_of(stand.column, concurrency, upto, visits, plan.profile)
            if len(done) >= concurrency * limit or upto in stand.substrate.not_offered:
                continue
            time.sleep(SETTLE_S)
            done += stand.visit(concurrency, upto)
        rungs = RUNGS if concurrency == 1 else RUNGS[:3] if upto == "first-reply" else (upto,)
        for column, done in climbs.items():
            findings = Collector(
                substrate=column.substrate, tier=str(column.tier), concurrency=concurrency
            )
            failures = [(i, climb.failure) for i, climb in enumerate(done) if climb.failure]
            lacks = load(column.substrate).not_offered
            for rung in rungs:
                if why := lacks.get(rung):
                    findings.fail(rung, "s", why, "lower", NOT_OFFERED)
                    continue
                times = [climb.rungs[rung] for climb in done if climb.failure is None]
                findings.add(rung, "s", times, failures)
            series += findings.series
    return series


def other_programs(stands: Sequence[Stand], count: int, run: Run, rig_run: RigRun) -> list[Series]:
    """First programs that no rehearsal has run, one cold start at a time."""
    several = unrehearsed.programs(run.directory)
    chance = random.Random(rig_run.run_id)  # which is in the record
    series: list[Series] = []
    for stand in stands:
        has_none = (
            stand.substrate.role is Role.CONTROL or "first-exec" in stand.substrate.not_offered
        )
        if has_none or heavy(stand.column):
            continue
        rig_run.show_progress(f"other programs: {stand.column}")
        many = min(count, HEAVY_VISITS) if slow(stand.column) else count
        own = stand.substrate.own_kernel
        made = unrehearsed.attempts(stand.launcher, several, many, chance, own, TIMEOUT_S)
        dimensions: Facts = {
            "substrate": stand.column.substrate,
            "tier": str(stand.column.tier),
            "concurrency": 1,
        }
        series += unrehearsed.series(made, dimensions)
    return series


def why_left_out(plan: Plan, stand: Stand, concurrency: int) -> str | None:
    """Why a column is not measured at this concurrency; None when it is."""
    if concurrency == 1:
        return None
    if heavy(stand.column) and not plan.named:
        return f"{concurrency} boots of it take minutes; to measure it: --columns {stand.column}"
    each = stand.substrate.memory_per_sandbox(stand.column.tier)
    try:
        admit(concurrency, each, available_memory(), Bounds())
    except NotEnoughMemory as refusal:
        return reason(refusal)
    return None


def _visits_of(column: Column, concurrency: int, upto: str, visits: int, profile: str) -> int:
    """The visits of this column, of at most `visits`: fewer where each boot is costly."""
    if heavy(column):
        return min(visits, HEAVY_VISITS if concurrency == 1 else 1)
    if slow(column) and profile != "full":
        return 1
    if concurrency > 1 and slow(column):
        return (visits + 1) // 2 if upto == SLOW_RUNG else 0
    return visits


def pairs(
    plan: Plan, stands: Sequence[Stand], run: Run, show_progress: ShowProgress
) -> list[Series]:
    """Our container up to its first process's output, and a plain `runc run` of an echo in the same
    bundle, in immediate succession; which of them comes first alternates."""
    series: list[Series] = []
    for stand in stands:
        if not (_runs_under_runc(stand) and runs_fleet(stand.column)):
            continue
        show_progress(f"plain runc beside {stand.column}")
        ours: list[float] = []
        plain: list[float] = []
        failures: list[tuple[int, str]] = []
        for number in range(PAIRS[plan.profile]):
            plain_s = _plain(run, stand) if number % 2 else 0.0
            time.sleep(SETTLE_S)
            (climb,) = stand.visit(1, "first-exec")
            plain_s = plain_s or _plain(run, stand)
            if climb.failure:  # a pair counts only as a whole
                failures.append((number, climb.failure))
            else:
                ours.append(climb.rungs["first-exec"])
                plain.append(plain_s)
        substrate, tier = stand.column.substrate, str(stand.column.tier)
        findings = Collector(beside=substrate)
        findings.add("paired-run", "s", ours, failures, substrate=substrate, tier=tier)
        findings.add("plain-run", "s", plain, program="runc")
        series += findings.series
    return series


def _runs_under_runc(stand: Stand) -> bool:
    """Whether a plain `runc run` can start the same bundle."""
    return isinstance(stand.substrate, OciSubstrate)


def _plain(run: Run, stand: Stand) -> float:
    assert isinstance(stand.substrate, OciSubstrate) and isinstance(stand.template, OciTemplate)
    time.sleep(SETTLE_S)
    return run_echo(run, stand.substrate, stand.template, secrets.token_hex(8))


def fleets(
    plan: Plan, stands: Sequence[Stand], run: Run, show_progress: ShowProgress
) -> list[Series]:
    """Memory of N running sandboxes together, by three definitions."""
    series: list[Series] = []
    chosen = [stand for stand in stands if runs_fleet(stand.column)]
    for number, n in enumerate(plan.sizes):
        for stand in chosen if number % 2 == 0 else reversed(chosen):
            column = stand.column
            if heavy(column) and number:
                continue
            many = min(n, HEAVY_N) if heavy(column) else n
            show_progress(f"memory: {many} of {column}")
            findings = Collector(substrate=column.substrate, tier=str(column.tier), n=many)
            _fleet(stand, many, run, findings, REST_S[plan.profile])
            series += findings.series
    return series


def _fleet(stand: Stand, n: int, run: Run, findings: Collector, rest_s: float) -> None:
    before, processes = memory_linux.read(), processes_of(run)
    each = stand.substrate.memory_per_sandbox(stand.column.tier)
    try:
        admit(n, each, available_memory(), Bounds())
    except NotEnoughMemory as refusal:
        findings.add("host-change", "bytes", [], [(0, reason(refusal))])
        return
    with SandboxFleet(stand.launch, each) as fleet:
        bring_up = fleet.bring_up(n)
        time.sleep(rest_s)
        after = [_read() for _ in range(READINGS)]
        own = processes_of(run) - processes
        memory = held_memory(own, fleet.sandboxes)
        up = len(fleet.sandboxes)
    findings.add("bring-up", "s", bring_up.took, bring_up.failures)
    if up:
        change = [before.to_be_had - available for available in after]
        findings.add("host-change", "bytes", change, up=up)
        if own:  # else they share one that was there before, as those of kvm-floor do
            findings.add("vmm-pss", "bytes", [memory.outside], up=up)
            findings.add("private-dirty", "bytes", [memory.private_dirty], up=up)


def _read() -> int:
    time.sleep(0.1)
    return memory_linux.read().to_be_had


def stands_to_probe(plan: Plan, stands: Sequence[Stand]) -> Sequence[Stand]:
    """The columns whose network and durability are tested: all in the full profile or if named; in
    the quick profile one tier of each substrate, in the smoke profile of two substrates."""
    if plan.profile == "full" or plan.named:
        return stands
    chosen = list({stand.column.substrate: stand for stand in reversed(stands)}.values())[::-1]
    if plan.profile == "smoke":
        # tests/reference runs both procedures on the others.
        networked = [stand for stand in chosen if load(stand.column.substrate).network]
        return [*networked[:1], *(stand for stand in chosen if stand not in networked)][:2]
    return chosen


def networks(stands: Sequence[Stand], run: Run, show_progress: ShowProgress) -> list[Series]:
    """Which targets a sandbox with a NIC reaches, by policy."""
    series: list[Series] = []
    for stand in stands:
        if not stand.substrate.network:
            continue
        show_progress(f"network: {stand.column}")
        findings = Collector(substrate=stand.column.substrate, tier=str(stand.column.tier))
        try:
            for result in reachability.matrix(stand, run):
                findings.add(
                    "reached", "1", [int(result.reached)],
                    target=result.target, policy=result.policy,
                )  # fmt: skip
        except CoppiceError as error:
            findings.add("reached", "1", [], [(0, reason(error))])
        series += findings.series
    return series


def reboots(stands: Sequence[Stand], show_progress: ShowProgress) -> list[Series]:
    """What survives a simulated reboot of the host, read in a sandbox restored afterwards."""
    series: list[Series] = []
    for stand in stands:
        show_progress(f"reboot: {stand.column}")
        findings = Collector(substrate=stand.column.substrate, tier=str(stand.column.tier))
        if why := stand.substrate.not_offered.get("first-exec"):
            findings.fail("state-survives", "1", why, "lower", NOT_OFFERED)
            series += findings.series
            continue
        try:
            after = reboot.simulate_reboot(stand.column)
        except CoppiceError as error:
            findings.add("state-survives", "1", [], [(0, reason(error))])
        else:
            findings.add("own-kernel", "1", [int(after.own_kernel)], kernel=after.release)
            findings.add("cards", "1", [after.nics])
            findings.add("state-survives", "1", [int(after.state)])
            findings.add("writes-survive", "1", [int(after.writes)])
            findings.add("reply-after-reboot", "s", [after.seconds])
        series += findings.series
    return series


@pytest.mark.benchmark(timer=STOPWATCH)
def test_compare(benchmark: BenchmarkFixture, run: Run, rig_run: RigRun, profile: str) -> None:
    plan = planned(rig_run.options, profile)
    series: list[Series] = []
    with ExitStack() as stack:
        stands = set_up(plan, run, rig_run, stack, series)
        for stand in stands:  # warm up: the files that each reads are in the page cache
            if not heavy(stand.column):
                stand.visit(1, "first-exec")
        rig_run.begin()
        for part in PARTS:
            if part not in plan.parts:
                continue
            if part == "cc1":
                series += pairs(plan, stands, run, rig_run.show_progress)
            if part in CONCURRENCIES:
                series += cold_starts(plan, part, stands, rig_run.show_progress)
                if part == "cc1":
                    series += other_programs(stands, OTHER_PROGRAMS[profile], run, rig_run)
            elif part == "memory":
                series += fleets(plan, stands, run, rig_run.show_progress)
            elif part == "network":
                series += networks(stands_to_probe(plan, stands), run, rig_run.show_progress)
            else:
                series += reboots(stands_to_probe(plan, stands), rig_run.show_progress)
        rig_run.end()
    record = rig_run.write(RIG, Path(__file__), series, clock())
    replies = [found for found in series if found.metric == "first-reply" and found.samples]
    if replies:
        rig_run.deliver(benchmark, replies[0], record)
    assert any(found.samples for found in series), "no column could be measured"

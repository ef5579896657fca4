"""The comparison: every substrate in one interleaved run, on the whole ladder, and what each takes.

The columns are visited A B C … C B A, so that whatever changes on the host meanwhile falls on all
of them; sizes of fleets are, too. One record holds everything. It measures and never judges.
"""

from __future__ import annotations

import functools
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from harness.errors import CoppiceError, NotEnoughMemory, UsageError
from harness.host.memory import available_memory
from harness.host.run import Run
from harness.measure import memory_linux
from harness.measure.benchmark import STOPWATCH
from harness.measure.clock import LADDER, START, calibrated
from harness.measure.collector import Collector
from harness.measure.record import Clock, Image, Series
from harness.paths import cache_directory
from harness.procedures import reachability, reboot
from harness.procedures.columns import Column, Stand, columns, held_memory, processes_of
from harness.procedures.fleet import Bounds, SandboxFleet, admit, reason
from harness.procedures.ladder import RUNGS, Climb
from harness.rig.info import RigInfo
from harness.rig.recorder import RigRun
from harness.sandbox.oci.plain import run_echo
from harness.sandbox.oci.substrate import OciSubstrate, OciTemplate
from harness.sandbox.protocol import Tier, load

PARTS = ("cc1", "cc10", "cc50", "memory", "network", "reboot")
"""In this order: a reboot, as near as it can be had, leaves the file cache empty."""
ENDS = ("first-reply", "first-exec", "first-touch")
CONCURRENCIES = {"cc1": 1, "cc10": 10, "cc50": 50}
Say = Callable[[str], None]
PAIRS = {"smoke": 1, "quick": 2, "full": 40}
HEAVY_BOOT_S = 10.0
"""Processor seconds of a boot from which on a substrate is left out of the quick profile, and is
started many at once only where its column was named."""
SLOW_BOOT_S = 0.5
"""Processor seconds of a boot from which on many at once climb to one rung, and half as often; in
the quick profile once."""
SLOW_RUNG = "first-exec"
HEAVY_VISITS, HEAVY_N = 2, 2
SETTLE_S = 0.1
"""Before every visit: the kernel takes namespaces and mounts down after their last process has
ended, and whoever makes some meanwhile waits for it."""
REST_S = {"smoke": 0.2, "quick": 0.2, "full": 1.0}
"""Between a fleet's coming up and the reading of what it takes."""
READINGS = 5

# Visits of each column to climb to a rung (at concurrency 1 to all of them, see
# harness/procedures/ladder.py). Eight of ten sandboxes are samples enough for a p95.
VISITS: Mapping[str, Mapping[str, Mapping[str, int]]] = {
    "smoke": {"cc1": {"first-touch": 1}},
    "quick": {"cc1": {"first-touch": 2}},
    "full": {
        "cc1": {"first-touch": 16},
        "cc10": {"first-reply": 1, "first-exec": 8, "first-touch": 1},
        "cc50": {"first-reply": 1, "first-exec": 1, "first-touch": 1},
    },
}
SIZES: Mapping[str, Sequence[int]] = {"smoke": (1,), "quick": (2,), "full": (50, 200)}


@functools.cache
def heavy(column: Column) -> bool:
    """Whether a boot takes most of a minute of a processor."""
    return load(column.substrate).boot_cpu_s >= HEAVY_BOOT_S


@functools.cache
def slow(column: Column) -> bool:
    """Whether each start boots a kernel for seconds of processor time."""
    return column.tier is Tier.FULL and load(column.substrate).boot_cpu_s >= SLOW_BOOT_S


@functools.cache
def fleet(column: Column) -> bool:
    """Whether many are brought up in this tier: the one in which a sandbox is made for its caller
    and kept running."""
    compared = load(column.substrate).compared
    return compared is not None and compared.fleet is column.tier


@dataclass(frozen=True)
class Plan:
    """What of the comparison is run, and how often."""

    parts: Sequence[str]
    columns: Sequence[Column]
    visits: Mapping[str, Mapping[str, int]]
    """By part and rung, what is not left out."""
    sizes: Sequence[int]
    profile: str = "quick"
    named: bool = False
    """Whether the caller chose the columns."""


def planned(options: Mapping[str, str], profile: str = "quick") -> Plan:
    """What a caller asked for; UsageError when it makes no sense."""
    parts = [one for one in options.get("part", "").split(",") if one] or list(PARTS)
    rungs = [one for one in options.get("rungs", "").split(",") if one] or list(ENDS)
    named = [one for one in options.get("columns", "").split(",") if one]
    every = columns()
    known = {str(one): one for one in every}
    try:
        visits = int(options.get("visits", "0"))
        sizes = [int(one) for one in options.get("n", "").split(",") if one] or SIZES[profile]
    except ValueError as error:
        raise UsageError(f"--visits or --n cannot be read: {error}") from error
    for one, all in [
        *((one, PARTS) for one in parts),
        *((one, ENDS) for one in rungs),
        *((one, tuple(known)) for one in named),
    ]:
        if one not in all:
            raise UsageError(f"the comparison has no {one!r}", hint=f"there are {', '.join(all)}")
    if visits < 0 or any(n < 1 for n in sizes):
        raise UsageError("--visits and --n count sandboxes: at least one")
    chosen = [known[one] for one in named] or [
        one for one in every if profile == "full" or not heavy(one)
    ]
    often = {
        part: {
            rung: visits or usual
            for rung, usual in by_rung.items()
            if part == "cc1" or rung in rungs
        }
        for part, by_rung in VISITS[profile].items()
    }
    return Plan(parts, chosen, often, sizes, profile, bool(named))


RIG = RigInfo(
    id="compare",
    title="Comparison: every substrate in one interleaved run",
    claims=("coppice-cold-start", "coppice-density", "cubesandbox-cold-start"),
    options={
        "part": f"of the comparison: {', '.join(PARTS)}, or several",
        "columns": "such as docker-full,qemu-durable-prewarm-pool",
        "visits": "of each column, at each concurrency",
        "rungs": f"that are climbed to above concurrency 1: {', '.join(ENDS)}",
        "n": "how many sandboxes, such as 8,50",
    },
    check=planned,
    measured_alike=("a532161bc8c591b306bbea26466a8eb0e0e14fd1d8ca2980668b5a2065a3266d",),
)


def the_clock() -> Clock:
    stops = {rung.name: rung.stop for rung in LADDER}
    stops["paired-run"] = "a container's first process has returned its output"
    stops["plain-run"] = "`runc run` of an echo in the same bundle has ended"
    return calibrated("compare", START, stops)


def stands(
    plan: Plan, run: Run, rig_run: RigRun, stack: ExitStack, series: list[Series]
) -> list[Stand]:
    """Every column that can run here; what cannot is recorded as that, with what would help."""
    found, images, tools = [], dict[str, Image](), list[str]()
    accelerator = None
    most = max((CONCURRENCIES.get(one, 1) for one in plan.parts), default=1)
    for column in plan.columns:
        try:
            stand = Stand(run, cache_directory(), column, stack, most)
        except CoppiceError as error:
            series += absent(column, " ".join(str(error).split()))
            continue
        found.append(stand)
        images |= {f"{one.name} {one.sha256}": one for one in stand.template.images}
        tools += stand.substrate.tools
        accelerator = accelerator or stand.template.accelerator
    rig_run.prepared(list(images.values()), accelerator, sorted(set(tools)))
    return found


def absent(column: Column, why: str, **dimensions: int) -> list[Series]:
    """What says on the record that a column was not measured."""
    tier = str(column.tier)
    findings = Collector(substrate=column.substrate, tier=tier, reason=why, **dimensions)
    findings.add("measured-here", "1", [0])
    return findings.series


def there_and_back(stands: Sequence[Stand], visits: int) -> Iterator[Stand]:
    """A B C C B A A B C …: every column as often as the others, and none always after the same."""
    for number in range(visits):
        yield from stands if number % 2 == 0 else reversed(stands)


def cold_starts(plan: Plan, part: str, found: Sequence[Stand], say: Say) -> list[Series]:
    """The ladder at one concurrency."""
    concurrency = CONCURRENCIES[part]
    series: list[Series] = []
    for stand in list(found):
        if why := left_out(plan, stand, concurrency):
            series += absent(stand.column, why, concurrency=concurrency)
            found = [one for one in found if one is not stand]
    for upto, visits in plan.visits.get(part, {}).items():
        climbs: dict[Column, list[Climb]] = {one.column: [] for one in found}
        for number, stand in enumerate(there_and_back(found, visits)):
            if number % len(found) == 0:
                say(f"{part}, {upto}: round {number // len(found) + 1} of {visits}")
            done = climbs[stand.column]
            most = _most(stand.column, concurrency, upto, visits, plan.profile)
            if len(done) >= concurrency * most:
                continue
            time.sleep(SETTLE_S)
            done += stand.visit(concurrency, upto)
        rungs = RUNGS if concurrency == 1 else RUNGS[:3] if upto == "first-reply" else (upto,)
        for column, done in climbs.items():
            findings = Collector(
                substrate=column.substrate, tier=str(column.tier), concurrency=concurrency
            )
            failures = [(i, one.failure) for i, one in enumerate(done) if one.failure]
            for rung in rungs:
                times = [one.rungs[rung] for one in done if one.failure is None]
                findings.add(rung, "s", times, failures)
            series += findings.series
    return series


def left_out(plan: Plan, stand: Stand, concurrency: int) -> str | None:
    """Why so many of a column are not started at once; None when they are."""
    if concurrency == 1:
        return None
    if heavy(stand.column) and not plan.named:
        return f"{concurrency} boots of it take minutes: --columns {stand.column} has it tried"
    each = stand.substrate.memory_per_sandbox(stand.column.tier)
    try:
        admit(concurrency, each, available_memory(), Bounds())
    except NotEnoughMemory as refusal:
        return reason(refusal)
    return None


def _most(column: Column, concurrency: int, upto: str, visits: int, profile: str) -> int:
    """How often a column is visited of so many times."""
    if heavy(column):
        return min(visits, HEAVY_VISITS if concurrency == 1 else 1)
    if slow(column) and profile != "full":
        return 1
    if concurrency > 1 and slow(column):
        return (visits + 1) // 2 if upto == SLOW_RUNG else 0
    return visits


def pairs(plan: Plan, found: Sequence[Stand], run: Run, say: Say) -> list[Series]:
    """A container of ours up to its first process's output, and `runc run` of an echo in the same
    bundle, one right after the other; who is first takes turns."""
    series: list[Series] = []
    for stand in found:
        if not (_runs_under_runc(stand) and fleet(stand.column)):
            continue
        say(f"plain runc beside {stand.column}")
        ours: list[float] = []
        plain: list[float] = []
        failures: list[tuple[int, str]] = []
        for number in range(PAIRS[plan.profile]):
            by_hand = _plain(run, stand) if number % 2 else 0.0
            time.sleep(SETTLE_S)
            (climb,) = stand.visit(1, "first-exec")
            by_hand = by_hand or _plain(run, stand)
            if climb.failure:  # neither counts without the other
                failures.append((number, climb.failure))
            else:
                ours.append(climb.rungs["first-exec"])
                plain.append(by_hand)
        substrate, tier = stand.column.substrate, str(stand.column.tier)
        findings = Collector(beside=substrate)
        findings.add("paired-run", "s", ours, failures, substrate=substrate, tier=tier)
        findings.add("plain-run", "s", plain, program="runc")
        series += findings.series
    return series


def _runs_under_runc(stand: Stand) -> bool:
    """Whether plain `runc run` can have the same bundle, beside each of its starts."""
    return isinstance(stand.substrate, OciSubstrate)


def _plain(run: Run, stand: Stand) -> float:
    assert isinstance(stand.substrate, OciSubstrate) and isinstance(stand.template, OciTemplate)
    time.sleep(SETTLE_S)
    return run_echo(run, stand.substrate, stand.template, secrets.token_hex(8))


def fleets(plan: Plan, found: Sequence[Stand], run: Run, say: Say) -> list[Series]:
    """Memory of N sandboxes that run, in three definitions, all together; there and back."""
    series: list[Series] = []
    chosen = [one for one in found if fleet(one.column)]
    for number, n in enumerate(plan.sizes):
        for stand in chosen if number % 2 == 0 else reversed(chosen):
            column = stand.column
            if heavy(column) and number:
                continue
            many = min(n, HEAVY_N) if heavy(column) else n
            say(f"memory: {many} of {column}")
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
        came = fleet.bring_up(n)
        time.sleep(rest_s)
        after = [_read() for _ in range(READINGS)]
        took = held_memory(processes_of(run) - processes, fleet.sandboxes)
        up = len(fleet.sandboxes)
    findings.add("bring-up", "s", came.took, came.failures)
    if up:
        change = [before.to_be_had - one for one in after]
        findings.add("host-change", "bytes", change, up=up)
        findings.add("vmm-pss", "bytes", [took.outside], up=up)
        findings.add("private-dirty", "bytes", [took.private_dirty], up=up)


def _read() -> int:
    time.sleep(0.1)
    return memory_linux.read().to_be_had


def one_of_each(plan: Plan, found: Sequence[Stand]) -> Sequence[Stand]:
    """Whose network and durability are tried: in the quick profile one tier of each substrate, in
    the smoke profile of some, unless columns were named."""
    if plan.profile == "full" or plan.named:
        return found
    chosen = list({one.column.substrate: one for one in reversed(found)}.values())[::-1]
    if plan.profile == "smoke":
        # tests/reference tries both procedures on the others.
        networked = [one for one in chosen if load(one.column.substrate).network]
        return [*networked[:1], *(one for one in chosen if one not in networked)][:2]
    return chosen


def networks(found: Sequence[Stand], run: Run, say: Say) -> list[Series]:
    """Whom a sandbox with a card reaches, and whom not."""
    series: list[Series] = []
    for stand in found:
        if not stand.substrate.network:
            continue
        say(f"network: {stand.column}")
        findings = Collector(substrate=stand.column.substrate, tier=str(stand.column.tier))
        try:
            for one in reachability.matrix(stand, run):
                findings.add(
                    "reached", "1", [int(one.reached)], target=one.target, policy=one.policy
                )
        except CoppiceError as error:
            findings.add("reached", "1", [], [(0, reason(error))])
        series += findings.series
    return series


def reboots(found: Sequence[Stand], say: Say) -> list[Series]:
    """What outlives all processes and all memory, and what is read in who comes after."""
    series: list[Series] = []
    for stand in found:
        say(f"reboot: {stand.column}")
        findings = Collector(substrate=stand.column.substrate, tier=str(stand.column.tier))
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
    given = {name: rig_run.option(name) or "" for name in RIG.options}
    plan = planned({name: value for name, value in given.items() if value}, profile)
    series: list[Series] = []
    with ExitStack() as stack:
        found = stands(plan, run, rig_run, stack, series)
        for stand in found:  # warm: what each reads is in memory
            if not heavy(stand.column):
                stand.visit(1, "first-exec")
        rig_run.begin()
        for part in PARTS:
            if part not in plan.parts:
                continue
            if part == "cc1":
                series += pairs(plan, found, run, rig_run.say)
            if part in CONCURRENCIES:
                series += cold_starts(plan, part, found, rig_run.say)
            elif part == "memory":
                series += fleets(plan, found, run, rig_run.say)
            elif part == "network":
                series += networks(one_of_each(plan, found), run, rig_run.say)
            else:
                series += reboots(one_of_each(plan, found), rig_run.say)
        rig_run.end()
    record = rig_run.write(RIG, Path(__file__), series, the_clock())
    replies = [one for one in series if one.metric == "first-reply" and one.samples]
    if replies:
        rig_run.deliver(benchmark, replies[0], record)
    assert any(one.samples for one in series), "no column could be measured"

"""Storms on substrates: sandboxes arrive at a rate, whether or not those before are ready.

Every latency counts from the moment at which the request was due. `--hold N` holds N sandboxes
alive, asks each a second time, and then ends all. `--sweep` offers one rate after the other and
finds the capacity. Afterwards what is left on the host is counted. The case `noop-reach` measures
the generator: the highest rate that it keeps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from harness.errors import UsageError
from harness.host.run import Run
from harness.load import capacity, generator
from harness.load.arrivals import Schedule, constant
from harness.load.capacity import Sweep
from harness.load.generator import USABLE, Life, Outcome
from harness.load.self_watch import LATENESS_S
from harness.measure.benchmark import STOPWATCH
from harness.measure.clock import LADDER, calibrated, without_collector
from harness.measure.collector import Collector
from harness.measure.record import Clock, Image, Scalar, Series
from harness.measure.statistics import percentile
from harness.paths import cache_directory
from harness.procedures import storm, storm_options, storm_series
from harness.procedures.run_objects import leaked, objects
from harness.procedures.storm import (
    REHEARSED,
    THREADS,
    AtOnce,
    Lives,
    Source,
    of_kind,
    threads,
)
from harness.procedures.storm_options import FLAGS, OPTIONS, StormOptions
from harness.procedures.unrehearsed import NAMES, UPLOADED, Programs, programs
from harness.rig.discovery import substrates_of
from harness.rig.info import RigInfo, names, numbers
from harness.rig.recorder import RigRun
from harness.rig.stages import ANSWERED
from harness.rig.tasks import Task
from harness.sandbox.protocol import Role, Sharing, Substrate, Template, Tier, load


@dataclass(frozen=True)
class Plan:
    """A storm that names no rate and number, the pool that it draws on, and the steps of a sweep
    and of the generator's reach."""

    rate: float
    count: int
    pool: int
    steps: int
    step_s: float
    reach_steps: int
    reach_s: float


PLANS = {
    "smoke": Plan(40, 6, 2, 2, 0.3, 1, 0.2),
    "quick": Plan(10, 100, 16, 8, 5, 6, 1),
    "full": Plan(10, 800, 16, 12, 40, 10, 5),
}
CAPACITY, REACH = "capacity", "generator-reach"
LEAST_IN_STEP = 10
SHOWN = 8
"""Leaked objects that a record names."""
FIRST_REACH = 500.0
QUICKEST = (Tier.DURABLE_PREWARM_POOL, Tier.PREWARM_POOL, Tier.DURABLE_POOL, Tier.FULL)
"""Without --tier a substrate is measured in the first of these that it has."""


REHEARSED_NAME = "rehearsed"
KINDS = (REHEARSED, *NAMES)
"""The kinds that arrivals of a trace file may have."""


def check(options: Mapping[str, str]) -> None:
    """Raises UsageError for options that make no sense together."""
    StormOptions.parse(options, PLANS["quick"].rate, PLANS["quick"].count, known=KINDS)
    numbers(options, "pool", (), least=0, one=True)
    names(options, "programs", (REHEARSED_NAME, *NAMES))
    if "forked" in options and "pool" in options:
        raise UsageError("--pool does not go with --forked: every request forks its own sandbox")


RIG = RigInfo(
    id="storm",
    title="Storms: sandboxes arrive at a rate, and the highest rate that holds",
    claims=(),
    wants=lambda substrate: bool(substrate.tiers) and "first-exec" not in substrate.not_offered,
    measured_alike=("9438ffa460a5333f7ece8bf7508fb789ae4ee894c46b9224708246285fac4a4f",),
    options={
        **OPTIONS,
        "pool": "sandboxes kept ready; 0: each request launches its own (default: 16)",
        "programs": f"first commands, drawn for each arrival: {REHEARSED_NAME}, {', '.join(NAMES)} "
        f"(default: {REHEARSED_NAME},sh; in a sweep {REHEARSED_NAME})",
    },
    flags={**FLAGS, "forked": "every request forks its sandbox from one zygote"},
    check=check,
    tasks=lambda: [
        Task("bench:storm-capacity", "storm", "Capacity of each substrate", {"sweep": "yes"}),
        Task("bench:storm-hold", "storm", "64 sandboxes held and asked again", {"hold": "64"}),
    ],
)


@dataclass(frozen=True)
class Case:
    """One substrate and tier; `reach` measures the generator instead."""

    substrate: str
    tier: Tier
    reach: bool = False

    def __str__(self) -> str:
        return f"{self.substrate}-{'reach' if self.reach else self.tier}"


def cases(named: Sequence[str], tiers: Sequence[str]) -> Iterator[Case]:
    for substrate in substrates_of(RIG, named):
        quickest = next(tier for tier in QUICKEST if tier in substrate.tiers)
        for tier in substrate.tiers if tiers else (quickest,):
            yield Case(substrate.name, tier)
        if substrate.role is Role.CONTROL:
            yield Case(substrate.name, quickest, reach=True)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    named = metafunc.config.getoption("--coppice-substrate") or ()
    tiers = metafunc.config.getoption("--coppice-tier") or ()
    wants_reach = metafunc.function is test_generator_reach
    found = [case for case in cases(named, tiers) if case.reach == wants_reach]
    metafunc.parametrize("case", found, ids=str)


@dataclass
class Storm:
    """Offers schedules to sandboxes of one source, and collects the series."""

    source: Source
    lives: Life
    options: StormOptions
    into: Collector
    images: list[Image]
    shortfalls: Sequence[float] = ()
    """How many sandboxes the pool lacked, over the last storm."""

    def offer(self, schedule: Schedule) -> Outcome:
        """One storm; its series are added, whatever became of it."""
        self.images.append(storm_options.image(schedule))
        with without_collector():
            outcome, self.shortfalls = generator.on_fresh_loop(
                storm.run(schedule, self.lives, self.source, self.options.most)
            )
        own = storm_options.dimensions(schedule)
        storm_series.add(outcome, self.into, of_kind, **own)
        self.into.add("pool-shortfall", "1", self.shortfalls, **own)
        return outcome


def doubts(outcome: Outcome) -> Sequence[str]:
    """Why the figures may be those of the generator."""
    waits = storm_series.thread_waits(outcome)
    late = percentile(waits, 99) if waits else 0.0
    waited = (
        [f"generator saturated: requests waited p99 {late * 1e3:.1f} ms for a thread"]
        if late > LATENESS_S
        else []
    )
    return [*outcome.saturated, *waited]


def measure(
    case: Case, run: Run, rig_run: RigRun, options: StormOptions, plan: Plan, pool: int
) -> Collector:
    """One storm, or a sweep of them, and what it leaves."""
    substrate = load(case.substrate)
    forked = rig_run.option("forked") is not None
    template = substrate.prepare(run, cache_directory(), case.tier)
    pool = 0 if forked or case.tier is Tier.FULL else pool
    into = Collector("open", **dimensions(case, template, pool, forked))
    images: list[Image] = []
    several = Programs(None)
    drawn = {entry.kind for entry in options.fixed.entries} if options.fixed else options.kinds
    if any(kind != REHEARSED for kind in drawn):
        several = programs(run.directory)
        if UPLOADED in drawn and not several.fresh:
            raise UsageError(f"{UPLOADED}: there is no C compiler here that would make it")

    def source(stack: ExitStack, pool: int) -> Source:
        made = Source(run, substrate, template, case.tier, stack, pool, forked=forked)
        made.ready()
        return made

    with ExitStack() as warm_up:  # makes what all sandboxes of the run share
        made = source(warm_up, min(pool, 1))
        made.release(made.acquire())
    before = objects(run)
    with ExitStack() as stack:
        made = source(stack, pool)
        executor = threads(options.most, stack)
        lives = Lives(made, executor, several, substrate.own_kernel, options.hold)
        offering = Storm(made, lives, options, into, images)
        rig_run.begin()
        if options.sweep:
            find_capacity(offering, rig_run, plan)
        else:
            into.doubts += doubts(offering.offer(options.schedule()))
        rig_run.end()
        rig_run.announce(ANSWERED)
    left = leaked(run, before)
    into.add("leaked", "1", [float(len(left))])
    if left:
        into.doubts.append(f"left behind: {', '.join(left[:SHOWN])}")
    rig_run.prepared([*template.images, *images], template.accelerator, substrate.tools)
    return into


def result_first(series: Sequence[Series]) -> Sequence[Series]:
    """What was searched for comes before the steps of the search."""
    return sorted(series, key=lambda one: one.metric not in (CAPACITY, REACH))


def dimensions(case: Case, template: Template, pool: int, forked: bool) -> dict[str, Scalar]:
    found: dict[str, Scalar] = {
        "substrate": case.substrate,
        "tier": str(case.tier),
        "accelerator": template.accelerator,
    }
    if forked:
        found["vmm"] = str(Sharing.FORKED)
    elif case.tier is not Tier.FULL:
        found["pool"] = pool
    return found


def find_capacity(offering: Storm, rig_run: RigRun, plan: Plan) -> None:
    options, into = offering.options, offering.into
    holds_bound = capacity.judged(options.bound_s)

    def offer(rate: float) -> Outcome:
        offering.source.ready()
        count = max(LEAST_IN_STEP, round(rate * options.step_s))
        rig_run.show_progress(f"{rate:.3g} a second")
        return offering.offer(options.schedule(rate, count))

    def judge(outcome: Outcome) -> str | None:
        if grew := capacity.growth(offering.shortfalls):
            return f"the pool came to lack {grew[1]:.1f} sandboxes, {grew[0]:.1f} at first"
        return holds_bound(outcome)

    found = capacity.sweep(
        offer, options.rate, judge, plan.steps, doubts=doubts, most=options.most_rate
    )
    note(found, into, CAPACITY, {"arrivals": options.arrivals, "bound": options.bound_s})
    into.doubts += found.doubts


def note(found: Sweep, into: Collector, metric: str, own: Mapping[str, Scalar]) -> None:
    """Add what a sweep has found; without it the reason."""
    if found.capacity is None:
        into.fail(metric, "1/s", found.bounded_by or "no rate was offered", "higher", **own)
    else:
        into.add(metric, "1/s", [found.capacity], (), "higher", **own)


@pytest.mark.benchmark(timer=STOPWATCH)
# When every request fails nothing is delivered: the record has the reasons, the test fails.
@pytest.mark.filterwarnings("ignore:Benchmark fixture was not used")
@pytest.mark.timeout(3600)
def test_storm(
    case: Case, benchmark: BenchmarkFixture, run: Run, rig_run: RigRun, profile: str
) -> None:
    plan = PLANS[profile]
    options = StormOptions.parse(
        rig_run.options, plan.rate, plan.count, kinds(case, rig_run), known=KINDS,
        step_s=plan.step_s,
    )  # fmt: skip
    (pool,) = numbers(rig_run.options, "pool", [plan.pool], least=0, one=True)
    into = measure(case, run, rig_run, options, plan, pool)
    repeat = {"substrate": case.substrate, "tier": str(case.tier)}
    record = rig_run.write(
        RIG, Path(__file__), result_first(into.series), clock(), repeat, doubts=into.doubts
    )
    rig_run.deliver(benchmark, storm_series.shown(into.series), record)


def kinds(case: Case, rig_run: RigRun) -> Sequence[str]:
    """The first commands among which arrivals draw. A sweep has one: its bound is on all of them
    together."""
    if load(case.substrate).role is Role.CONTROL:
        return (REHEARSED,)  # it has no programs
    usual = (REHEARSED_NAME,) if rig_run.option("sweep") else (REHEARSED_NAME, "sh")
    named = names(rig_run.options, "programs", (REHEARSED_NAME, *NAMES), usual)
    return [REHEARSED if name == REHEARSED_NAME else name for name in named]


@pytest.mark.benchmark(timer=STOPWATCH)
@pytest.mark.timeout(3600)
def test_generator_reach(
    case: Case, benchmark: BenchmarkFixture, run: Run, rig_run: RigRun, profile: str
) -> None:
    """How many arrivals a second one process sends on time, to sandboxes that do nothing."""
    rig_run.tell(
        f"{case}: the highest rate that this generator keeps, whatever is measured with it"
    )
    plan = PLANS[profile]
    substrate = load(case.substrate)
    template = substrate.prepare(run, cache_directory(), case.tier)
    rig_run.prepared(template.images, template.accelerator, substrate.tools)
    into = Collector("open", substrate=case.substrate)
    rig_run.begin()
    for through in ("event-loop", "threads"):

        def offer(rate: float, through: str = through) -> Outcome:
            return reach_step(substrate, template, case, run, rate, plan.reach_s, through, into)

        rig_run.show_progress(through)
        found = capacity.sweep(offer, FIRST_REACH, not_kept, plan.reach_steps)
        note(found, into, REACH, {"through": through})
    rig_run.end()
    record = rig_run.write(
        RIG,
        Path(__file__),
        result_first(into.series),
        clock(),
        {"substrate": case.substrate},
        doubts=into.doubts,
    )
    late = next(series for series in into.series if series.metric == "lateness")
    rig_run.deliver(benchmark, late, record)


def not_kept(outcome: Outcome) -> str | None:
    """Why the generator did not keep the schedule; None if it did."""
    return next(iter(outcome.saturated), None)


def reach_step(
    substrate: Substrate[Template],
    template: Template,
    case: Case,
    run: Run,
    rate: float,
    seconds: float,
    through: str,
    into: Collector,
) -> Outcome:
    """One rate, to sandboxes that were all made before and end afterwards."""
    schedule = constant(rate, round(rate * seconds))
    with ExitStack() as stack:
        source = Source(run, substrate, template, case.tier, stack, len(schedule), refill=False)
        source.ready()
        life: Life = AtOnce(source)
        if through == "threads":
            life = Lives(source, threads(THREADS, stack), Programs(None), substrate.own_kernel)
        with without_collector():
            outcome = generator.on_fresh_loop(generator.run(schedule, life, limit=len(schedule)))
    own: dict[str, Scalar] = {"through": through, **storm_options.dimensions(schedule)}
    storm_series.add_generator(outcome, into, own)
    usable = [result.marks[USABLE] for result in outcome.results if USABLE in result.marks]
    into.add(USABLE, "s", usable, **own)
    return outcome


def clock() -> Clock:
    rungs = {rung.name: rung.stop for rung in LADDER if rung.name in ("object", "first-reply")}
    return calibrated(
        "storm",
        storm_series.START,
        {
            **rungs,
            **storm_series.STOPS,
            CAPACITY: "a rate: the highest at which the bound held and no queue grew",
            REACH: "a rate: the highest with dispatch lateness p99 under 5 ms",
        },
    )

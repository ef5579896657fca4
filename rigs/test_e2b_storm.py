"""Storms over an E2B API: sandboxes arrive at a rate, whether or not those before are ready.

Each is created, runs its first command, is kept for its lifetime (`--hold N`: until all N are
there), is asked a second time with a new nonce if it was kept, and is deleted. Every latency counts
from the moment at which the request was due. Afterwards the service is asked what it still has.

The service is a gateway of this run, over `qemu` and over `noop`, which shows what gateway and
generator cost; or any other: `--endpoint`. `--generators N` shares one schedule among N processes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from harness.endpoints import event_loop, round_trip
from harness.endpoints import options as endpoint_options
from harness.endpoints.challenge import COMMAND, PATHS
from harness.endpoints.settings import TEMPLATE, Endpoint
from harness.errors import UsageError
from harness.gateway.fleets.microvm import ENVD
from harness.gateway.gateway_process import GatewayProcess, running_gateway
from harness.gateway.requirements import packages
from harness.gateway.sandboxes.store import Limits
from harness.host.run import Run
from harness.load import arrivals, capacity, fan_out, offering
from harness.load.arrivals import KIND, Schedule
from harness.load.capacity import Step, Sweep
from harness.load.fan_out import Merged
from harness.load.generator import Outcome
from harness.load.offering import Offering
from harness.measure.benchmark import STOPWATCH
from harness.measure.clock import calibrated
from harness.measure.collector import Collector
from harness.measure.record import NOT_OFFERED, Clock, Image, Scalar
from harness.paths import cache_directory
from harness.procedures import endpoint_storm, storm_options, storm_series, storm_service
from harness.procedures.api_latency import Inside
from harness.procedures.endpoint_storm import EndpointStorm, Left
from harness.procedures.storm_options import FLAGS, OPTIONS, StormOptions
from harness.rig.info import RigInfo, names, numbers
from harness.rig.recorder import RigRun, given_options
from harness.rig.stages import ANSWERED
from harness.rig.tasks import Task
from harness.sandbox.qemu.accelerator import of_microvms


@dataclass(frozen=True)
class Plan:
    """A storm that names no rate and number, the pool that it draws on, and a sweep's steps."""

    rate: float
    count: int
    pool: int
    steps: int
    step_s: float


PLANS = {
    "smoke": Plan(20, 6, 2, 2, 0.4),
    "quick": Plan(10, 100, 16, 6, 5),
    "full": Plan(50, 500, 64, 12, 30),
}
LEAST_IN_STEP, POOLS_IN_STEP = 10, 10
"""Of a sweep: how many sandboxes at least, and how many times the pool, so that its stock hides a
tenth of the rate at most."""
PROGRAMS = ("bash", "sh", "ls", "python3", "node")
USUAL = ("bash", "sh", "ls", "python3")
"""The first commands among which arrivals draw; in a sweep only the first, whose bound is on all
of them together. `bash` is what the pool of our gateway has rehearsed."""
ENDPOINT, NOOP, OURS = "endpoint", "noop", ("qemu", "noop")


def check(options: Mapping[str, str]) -> None:
    """Raises UsageError for options that make no sense together."""
    names(options, "programs", PROGRAMS)
    asked = parsed(options, PLANS["quick"], ())
    offering.require_address(options.get("scheduler"))
    if asked.sweep and "dump-arrivals" in options:
        raise UsageError("--dump-arrivals does not go with --sweep, which has many schedules")
    if endpoint := endpoint_options.chosen(options):
        if "pool" in options:
            raise UsageError("--pool is of a gateway of this run, not of --endpoint")
        offering.require_private(options.get("scheduler"), "the service's key")
        parts = fan_out.split(asked.schedule(), generators(options) or 1)
        endpoint_storm.share(endpoint, parts, hold=asked.hold)


def parsed(options: Mapping[str, str], plan: Plan, kinds: Sequence[str]) -> StormOptions:
    count = generators(options) or 1
    numbers(options, "pool", (), least=0, one=True)
    return StormOptions.parse(
        options, plan.rate, plan.count, kinds or (KIND,), count, known=(KIND, *PROGRAMS),
        step_s=plan.step_s,
    )  # fmt: skip


def generators(options: Mapping[str, str]) -> int | None:
    """How many generators were asked for."""
    return next(iter(numbers(options, "generators", (), one=True)), None)


RIG = RigInfo(
    id="e2b-storm",
    title="Storms over the E2B API, and the highest rate that holds",
    claims=(),
    tools=("qemu-system-x86_64",),
    requirements=packages,
    options={
        **OPTIONS,
        "programs": f"first commands, drawn for each arrival: {', '.join(PROGRAMS)} "
        f"(default: {','.join(USUAL)}; in a sweep {USUAL[0]})",
        "pool": "sandboxes that a gateway of this run keeps ready (default: 16)",
        "generators": "processes that share the arrivals (default: this one)",
        "scheduler": "the scheduler of dask whose workers generate, such as tcp://HOST:8786",
        "dump-arrivals": "write the arrivals to this file, for --arrivals FILE",
        **endpoint_options.OPTIONS,
    },
    flags=FLAGS,
    check=check,
    ask=endpoint_options.asked_for,
    tasks=lambda: [
        Task(
            "bench:e2b-storm-burst", "e2b-storm", "500 sandboxes at 50 a second, then deleted",
            {"workload": "burst", "lifetime": "0", "programs": "bash", "pool": "64"},
        ),
        Task("bench:e2b-capacity", "e2b-storm", "Capacity over the API", {"sweep": "yes"}),
        Task(
            "bench:e2b-hold", "e2b-storm", "10,000 sandboxes held through 8 generators",
            {"substrate": NOOP, "hold": "10000", "rate": "200", "generators": "8", "most": "1250"},
        ),
    ],
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A gateway of this run over a `substrate`, or the `endpoint` that the user names."""

    substrate: str

    @property
    def has_pool(self) -> bool:
        return self.substrate not in (NOOP, ENDPOINT)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    given = given_options(metafunc.config.getoption("--coppice-set"))
    found = [Case(ENDPOINT)] if given.get("endpoint") else [Case(name) for name in OURS]
    metafunc.parametrize("case", found, ids=lambda case: case.substrate)


@dataclass
class Storm:
    """Offers schedules to one service, and collects the series."""

    storm: EndpointStorm
    served: GatewayProcess | None
    pool: int
    offering: Offering
    options: StormOptions
    into: Collector
    images: list[Image] = field(default_factory=list)
    lost: set[int] = field(default_factory=set)

    def offer(self, schedule: Schedule) -> Merged:
        """One storm; its series are added, whatever became of it."""
        if self.served and self.pool:
            self.served.wait_for_pool(TEMPLATE, self.pool)
        storm = endpoint_storm.within_limits(self.storm, self.offering.parts(schedule))
        merged = self.offering.offer(storm, schedule)
        self.images.append(storm_options.image(schedule))
        self.lost |= merged.lost
        own: dict[str, Scalar] = {
            **storm_options.dimensions(schedule),
            "generators": self.offering.generators,
        }
        storm_series.add(merged.outcome, self.into, self._of_kind, **own)
        for number, readings in enumerate(merged.readings, 1):
            storm_series.add_readings(readings, self.into, {**own, **self._generator(number)})
        if self.offering.generators > 1:
            lost = sum(each.kind == "lost" for each in merged.outcome.results)
            self.into.add("lost", "1", [float(lost)], **own)
            for number, offset in enumerate(merged.offsets, 1):
                by = self._generator(number)
                self.into.add("clock-offset", "s", [offset.seconds], **own, **by)
                self.into.add("clock-uncertainty", "s", [offset.uncertainty_s], **own, **by)
        return merged

    def _generator(self, number: int) -> dict[str, Scalar]:
        return {"generator": number} if self.offering.generators > 1 else {}

    def _of_kind(self, kind: str) -> Mapping[str, Scalar]:
        program = COMMAND if kind == KIND else kind
        rehearsed: dict[str, Scalar] = {}
        if self.served and self.pool:
            rehearsed["rehearsed"] = "yes" if program == COMMAND else "no"
        return {"program": program, **rehearsed}


def find_capacity(storm: Storm, rig_run: RigRun, plan: Plan) -> None:
    """Offer one rate after the other, and add the highest that holds."""
    options, into = storm.options, storm.into
    judge = capacity.judged(options.bound_s)
    steps: list[Step] = []
    doubts: Sequence[str] = ()

    def offer(rate: float) -> Outcome:
        nonlocal doubts
        rig_run.show_progress(f"{rate:.3g} a second")
        of_step = round(rate * options.step_s)
        count = max(LEAST_IN_STEP, POOLS_IN_STEP * storm.pool, of_step)
        merged = storm.offer(options.schedule(rate, count))
        doubts = merged.doubts
        steps.append(Step(rate, merged.outcome, judge(merged.outcome), doubts))
        return merged.outcome

    try:
        capacity.sweep(
            offer, options.rate, judge, plan.steps, doubts=lambda outcome: doubts,
            most=options.most_rate,
        )  # fmt: skip
    except UsageError as beyond:
        if not steps:
            raise
        # The limits of a foreign service end the search.
        into.doubts.append(str(beyond.args[0]))
    found = Sweep(steps)
    into.doubts += found.doubts
    by: dict[str, Scalar] = {"arrivals": options.arrivals, "bound": options.bound_s}
    if found.capacity is None:
        into.fail("capacity", "1/s", found.bounded_by or "no rate was offered", "higher", **by)
    else:
        into.add("capacity", "1/s", [found.capacity], (), "higher", **by)


def gateway(
    case: Case, run: Run, pool: int, most: int
) -> contextlib.AbstractContextManager[GatewayProcess]:
    """A gateway of this run. The limits of its key are not what is measured here."""
    limits = Limits(max(1100, 2 * most), memory_mib=1 << 30, rate=1e6, burst=1 << 20)
    given = ["--substrate", case.substrate, "--connections", str(max(4096, 4 * most))]
    if case.substrate != NOOP:
        given += ["--pool", str(pool), "--no-network", "--only", TEMPLATE]
    return running_gateway(run, *given, limits=limits)


def programs(case: Case, rig_run: RigRun, inside: Inside | None) -> Sequence[str]:
    """The first commands among which arrivals draw. UsageError where one is missing there."""
    if case.substrate == NOOP:
        return (COMMAND,)  # it has no programs
    usual = USUAL[:1] if rig_run.option("sweep") else USUAL
    named = names(rig_run.options, "programs", PROGRAMS, usual)
    if not inside:
        return named
    there = [name for name in named if name == COMMAND or not inside.lacks(name)]
    if missing := [name for name in named if name not in there and rig_run.option("programs")]:
        raise UsageError(f"{', '.join(missing)}: {inside.lacks(missing[0])}")
    return there


@pytest.mark.benchmark(timer=STOPWATCH)
# When every request fails nothing is delivered: the record has the reasons, the test fails.
@pytest.mark.filterwarnings("ignore:Benchmark fixture was not used")
@pytest.mark.timeout(3600)
def test_e2b_storm(
    case: Case, benchmark: BenchmarkFixture, run: Run, rig_run: RigRun, profile: str
) -> None:
    plan, given = PLANS[profile], rig_run.options
    (pool,) = numbers(given, "pool", [plan.pool], least=0, one=True)
    asked = parsed(given, plan, ())
    endpoint, served, told, inside = endpoint_options.chosen(given), None, None, None
    named: dict[str, Scalar] = {"substrate": case.substrate}
    if endpoint:
        named = {"system": endpoint.system}
    elif case.has_pool:
        named["pool"] = pool
    into = Collector("open", **named)
    environment = {**os.environ, **run.environment}
    if endpoint:
        environment.pop(endpoint.key_variable, None)  # generators get the key with their work
    if "dump-arrivals" in given:
        dump(asked, given)  # where it cannot be written, before anything is made
    # The generators start before anything is made, and end before it is deleted.
    with ExitStack() as stack, ExitStack() as generating:
        offered = generating.enter_context(
            offering.opened(
                generators(given), given.get("scheduler"), environment, run.directory,
                rig_run.show_progress,
            )
        )  # fmt: skip
        if endpoint:
            storm_service.announce(endpoint, asked, rig_run.tell)
            journal = stack.enter_context(
                storm_service.begun(endpoint, rig_run.run_id, rig_run.tell, into)
            )
            inside, told = event_loop.run(storm_service.surveyed(endpoint, journal, into))
        else:
            served = stack.enter_context(gateway(case, run, pool, 4 * len(asked.schedule())))
            endpoint = Endpoint(
                "gateway", "gateway", served.address, served.key, sandbox_url=served.address
            )
        asked = parsed(given, plan, programs(case, rig_run, inside))
        if "dump-arrivals" in given:
            dump(asked, given)
        storm = Storm(
            of_case(case, endpoint, inside, asked, rig_run), served, pool if case.has_pool else 0,
            offered, asked, into,
        )  # fmt: skip
        ran_by = of_microvms(run, cache_directory(), ENVD) if case.has_pool else None
        left = measure(storm, rig_run, plan)
    if left.unknown:
        kind = NOT_OFFERED if left.not_offered else None
        into.fail("leaked", "1", left.unknown, "lower", kind)
    else:
        into.add("leaked", "1", [float(left.leaked)])
    rig_run.prepared(storm.images, ran_by, RIG.tools if case.has_pool else ())
    repeat = {} if told else {"substrate": case.substrate}
    record = rig_run.write(
        RIG, Path(__file__), into.series, clock(), repeat, endpoint=told, doubts=into.doubts
    )
    rig_run.deliver(benchmark, storm_series.shown(into.series), record)


def dump(asked: StormOptions, given: Mapping[str, str]) -> None:
    """Write the arrivals for `--arrivals FILE`. Raises PathError and DiskFull."""
    arrivals.dump(asked.schedule(), Path(given["dump-arrivals"]))


def of_case(
    case: Case, endpoint: Endpoint, inside: Inside | None, asked: StormOptions, rig_run: RigRun
) -> EndpointStorm:
    schedule = asked.schedule()
    kept = max(entry.lifetime_s for entry in schedule.entries)
    return EndpointStorm(
        endpoint, rig_run.run_id, dict(inside.paths if inside else PATHS), asked.most,
        endpoint_storm.LIFE_S + schedule.duration_s + kept, asked.hold,
        echoes=case.substrate == NOOP, foreign=case.substrate == ENDPOINT,
    )  # fmt: skip


def measure(storm: Storm, rig_run: RigRun, plan: Plan) -> Left:
    """One storm, or a sweep of them; what it left, which is deleted."""
    rig_run.begin()
    try:
        if storm.options.sweep:
            find_capacity(storm, rig_run, plan)
        else:
            storm.into.doubts += storm.offer(storm.options.schedule()).doubts
        rig_run.end()
        rig_run.announce(ANSWERED)
    finally:
        left = event_loop.run(
            endpoint_storm.clear(storm.storm, storm.offering.generators, storm.lost)
        )
    return left


def clock() -> Clock:
    return calibrated(
        "e2b-storm",
        storm_series.START,
        {
            **storm_series.STOPS,
            "clock-offset": "what a generator's clock shows more than this process's",
            "clock-uncertainty": "the bound of its error: half of the shortest round trip",
            "create-headers": "the response's headers are complete",
            "create-body": "the response's body is complete",
            "capacity": "a rate: the highest at which the bound held and no queue grew",
            round_trip.METRIC: round_trip.STOP,
        },
    )

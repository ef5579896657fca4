"""Latency over the E2B API: creating a sandbox, its first command, its first cell.

`create-headers` ends when the response's headers have arrived, the clock of most published figures,
and `create-body` when the response is complete; over the SDK it is the return of the call. Each
sandbox gets at most one further request, a command or a cell, so that each is the sandbox's first,
and answers what only a process inside can have computed. `usable` is the first command's end,
counted from the request for the sandbox.

Without an endpoint, sandboxes come from a full pool of our own gateway and are deleted only after a
batch: neither deletions nor commands load the host while other sandboxes are being created. The
same requests to the noop fleet show the cost of the gateway and the client alone. The pool has
rehearsed the kind of command and cell. `first-program` is of commands that no rehearsal has run,
drawn when the sandbox is asked for, one at a time; one of them is made for it and uploaded.

With `--endpoint`, the same is asked of a service that is known only by its address, from here; the
network's part is measured beside, as `round-trip`.
"""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from harness.endpoints import event_loop, options, round_trip, session
from harness.endpoints.client import LIFE_S, Journal, opened
from harness.endpoints.facts import facts
from harness.endpoints.settings import Endpoint
from harness.errors import EndpointFailed, Refused, SandboxError, Unsupported, UsageError
from harness.gateway.compat.environments import PYTHON, newest
from harness.gateway.fleets.microvm import ENVD
from harness.gateway.gateway_process import GatewayProcess, running_gateway
from harness.gateway.requirements import requirements
from harness.host.run import Run
from harness.measure.benchmark import STOPWATCH
from harness.measure.clock import calibrated, without_collector
from harness.measure.collector import Collector
from harness.measure.endpoint_facts import EndpointFacts
from harness.measure.record import NOT_OFFERED, Clock, Facts, Series
from harness.paths import cache_directory
from harness.procedures import api_latency
from harness.procedures.api_latency import KINDS, PROGRAMS, Loops, Step, Taken
from harness.rig.info import RigInfo, numbers
from harness.rig.recorder import RigRun
from harness.sandbox.qemu.accelerator import of_microvms

TEMPLATE = "code-interpreter-v1"
COUNTS: Mapping[str, Mapping[int, Sequence[int]]] = {
    "smoke": {1: (1, 1, 1), 2: (2, 2, 2)},
    "quick": {1: (0, 8, 8), 10: (10, 10, 10)},
    "full": {1: (176, 96, 96), 10: (80, 80, 80), 50: (100, 100, 100)},
}
"""Sandboxes of each kind by concurrency, over HTTP and over the SDK."""
ENDPOINT_COUNTS = {"smoke": (2, (1,)), "quick": (8, (1,)), "full": (96, (1, 10, 50))}
"""At a service: sandboxes of each kind, and the concurrencies that its limits allow."""
PROGRAM_COUNTS = {"smoke": 5, "quick": 10, "full": 90}
"""Sandboxes that run one of the programs first, which take turns in random order."""
ROUND_TRIPS = {"smoke": 5, "quick": 40, "full": 400}


def check(given: Mapping[str, str]) -> None:
    """Raise UsageError for a service that cannot be meant, or for which limits are missing."""
    options.chosen(given)
    _count(given)


def _count(given: Mapping[str, str]) -> int | None:
    """How many sandboxes of each kind the user wants."""
    found = numbers(given, "n", (), one=True)
    return found[0] if found else None


RIG = RigInfo(
    id="e2b-latency",
    title="Creation, first command and first cell over the E2B API",
    claims=("cubesandbox-e2b-create",),
    tools=("qemu-system-x86_64",),
    requirements=requirements,
    options={
        **options.OPTIONS,
        "n": "sandboxes of each kind and concurrency (--concurrency: workers in a closed loop)",
    },
    check=check,
    ask=options.asked_for,
)
SETTLE_S = 0.2
"""Of rest for the host after the pool was filled."""
Batch = Callable[[str, int], Sequence[Taken]]
"""Runs a number of rounds of a kind in succession over the SDK; what each sandbox gave."""


@contextmanager
def over_sdk(served: GatewayProcess, concurrency: int) -> Iterator[Batch]:
    """A batch over the newest SDK, which runs in a separate process."""
    python = newest().python(cache_directory())
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    argv = [str(python), str(PYTHON / "latency.py"), str(concurrency)]
    with subprocess.Popen(
        argv, env={**kept, **served.sdk_environment}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin and process.stdout
        if process.stdout.readline() != b"warm\n":
            raise SandboxError("the SDK's process did not warm up")

        def batch(kind: str, rounds: int) -> Sequence[Taken]:
            assert process.stdin and process.stdout
            process.stdin.write(f"{kind} {rounds}\n".encode())
            process.stdin.flush()
            return [_of_sdk(one) for one in json.loads(process.stdout.readline())]

        try:
            yield batch
        finally:
            process.stdin.close()
            process.wait()


def _of_sdk(sample: Mapping[str, Any]) -> Taken:
    if "failed" in sample:
        return Taken({}, sample["failed"])
    return Taken(sample)


@dataclass(frozen=True)
class Own:
    """A gateway of this run, and how full its pool is before a batch; noop has none."""

    served: GatewayProcess
    substrate: str
    pool: int

    @property
    def endpoint(self) -> Endpoint:
        address = self.served.address
        return Endpoint("gateway", "gateway", address, self.served.key, sandbox_url=address)

    def fill(self) -> None:
        """Wait until the pool is full, and the host rests."""
        if self.substrate != "noop":
            self.served.wait_for_pool(TEMPLATE, self.pool)
            time.sleep(SETTLE_S)


def measure_own(
    own: Own, counts: Mapping[int, Sequence[int]], programs: Sequence[str], run_id: str,
    into: Collector,
) -> None:  # fmt: skip
    """Measure every concurrency over HTTP and over the SDK."""
    dimensions: Facts = {"substrate": own.substrate, "operation": "create"}

    async def over_http(concurrency: int, wanted: Sequence[int]) -> None:
        async with opened(own.endpoint, run_id=run_id) as client:
            inside = await api_latency.explored(client)
            loops = Loops(client, inside, into, own.pool, own.fill)
            for kind, count in zip(KINDS, wanted, strict=True):
                await loops.measure(Step(kind, count, concurrency), {**dimensions, "sdk": "http"})
            if concurrency == 1 and programs:
                # A program that our template lacks is not a failure of this gateway.
                here = [name for name in programs if not inside.lacks(name)]
                by: Facts = {**dimensions, "sdk": "http", "rehearsed": "no"}
                await loops.measure_programs(here, by)

    for concurrency, wanted in counts.items():
        event_loop.run(over_http(concurrency, wanted))
        by: Facts = {**dimensions, "concurrency": concurrency, "sdk": newest().name}
        rounds = max(own.pool // concurrency, 1)
        try:
            with over_sdk(own.served, concurrency) as batch:
                for kind, count in zip(KINDS, wanted, strict=True):
                    of_kind = -(-count // concurrency)
                    for done in range(0, of_kind, rounds):
                        own.fill()
                        taken = batch(kind, min(rounds, of_kind - done))
                        api_latency.collect(into, kind, taken, by, mixed=concurrency > 1)
        except Unsupported as error:  # the SDK's packages cannot be installed here
            print(f"measured over HTTP only: {error}")


def measure_gateway(run: Run, rig_run: RigRun, profile: str, at_once: Sequence[int]) -> Collector:
    """Our own gateway with microVMs, and the one that does nothing."""
    into = Collector()
    own_n = _count(rig_run.options)
    counts = {
        concurrency: (own_n,) * len(KINDS) if own_n else COUNTS[profile].get(concurrency, (24,) * 3)
        for concurrency in at_once or COUNTS[profile]
    }
    pool = max(counts)
    with (
        running_gateway(run, "--pool", str(pool), "--no-network", "--only", TEMPLATE) as served,
        running_gateway(run, "--substrate", "noop") as nothing,
    ):
        served.wait_for_pool(TEMPLATE, pool)
        ran_by = of_microvms(run, cache_directory(), ENVD)
        rig_run.prepared((), ran_by, RIG.tools)
        rig_run.begin()
        with without_collector():
            programs = drawn(rig_run, PROGRAM_COUNTS[profile])
            measure_own(Own(nothing, "noop", pool), counts, (), rig_run.run_id, into)
            measure_own(Own(served, "qemu", pool), counts, programs, rig_run.run_id, into)
        rig_run.end()
    return into


def drawn(rig_run: RigRun, count: int) -> Sequence[str]:
    """The programs in the order of their turns, drawn from the run's id, which is in the record."""
    chance = random.Random(rig_run.run_id)
    names = chance.sample(PROGRAMS, k=len(PROGRAMS))
    several = [names[number % len(names)] for number in range(count)]
    chance.shuffle(several)
    return several


@dataclass(frozen=True)
class Plan:
    """What is made at a service."""

    steps: Sequence[Step]
    programs: Sequence[str]

    @property
    def sandboxes(self) -> int:
        return 1 + sum(step.count for step in self.steps) + len(self.programs)

    def lines(self, endpoint: Endpoint) -> Iterator[str]:
        """What the user should know before anything is made."""
        assert endpoint.limits
        most, rate = endpoint.limits.most_sandboxes, endpoint.limits.most_per_second
        yield (
            f"{endpoint.name}: {self.sandboxes} sandboxes of {endpoint.template} will be made, "
            f"{most} at once and {rate:g} a second at most, which takes "
            f"{math.ceil(self.sandboxes / rate)} s or longer; all are deleted"
        )
        if price := options.cost(endpoint, self.sandboxes * LIFE_S):
            yield f"  they cost {price} at most, if each lived until its timeout of {LIFE_S} s"


def planned(endpoint: Endpoint, rig_run: RigRun, profile: str, at_once: Sequence[int]) -> Plan:
    """The steps at a service, within its limits. Raises UsageError."""
    assert endpoint.limits
    most = endpoint.limits.most_sandboxes
    if at_once and max(at_once) > most:
        raise UsageError(
            f"--concurrency {max(at_once)} is more than --most-sandboxes {most} allows",
            hint=f"--most-sandboxes {max(at_once)}",
        )
    usual, concurrencies = ENDPOINT_COUNTS[profile]
    count = _count(rig_run.options) or usual
    wanted = at_once or [one for one in concurrencies if one <= most]
    steps = [Step(kind, max(count, one), one) for one in wanted for kind in KINDS]
    programs = drawn(rig_run, min(PROGRAM_COUNTS[profile], max(count, len(PROGRAMS))))
    return Plan(steps, programs)


async def at_endpoint(
    endpoint: Endpoint, journal: Journal, plan: Plan, rig_run: RigRun, profile: str, into: Collector
) -> EndpointFacts:
    """Measure a service, whose limits hold for all that is made."""
    assert endpoint.limits
    by: Facts = {"system": endpoint.system, "sdk": "http"}
    creating: Facts = {**by, "operation": "create"}
    async with opened(endpoint, journal) as client:
        trips = await round_trip.measured(client, ROUND_TRIPS[profile])
        inside = await api_latency.explored(client)
        rig_run.prepared((), None, ())
        rig_run.begin()
        for what, seconds in trips.items():
            into.add(round_trip.METRIC, "s", seconds, **by, of=what)
        loops = Loops(client, inside, into, endpoint.limits.most_sandboxes)
        for step in plan.steps:
            await loops.measure(step, creating)
        await loops.measure_programs(plan.programs, creating)
        rig_run.end()
        into.doubts += api_latency.doubts(client)
        return facts(client)


def measure_endpoint(
    endpoint: Endpoint, rig_run: RigRun, profile: str, at_once: Sequence[int]
) -> tuple[Collector, EndpointFacts]:
    """A service that is known by its address."""
    plan = planned(endpoint, rig_run, profile, at_once)
    for line in plan.lines(endpoint):
        rig_run.tell(line)
    into = Collector()
    with session.begun(endpoint, rig_run.run_id, rig_run.tell) as begun, without_collector():
        found = event_loop.run(at_endpoint(endpoint, begun.journal, plan, rig_run, profile, into))
    into.doubts += begun.left
    commands = [one for one in into.series if one.metric == "first-command"]
    if not any(one.samples for one in commands) and not _offers_none(commands):
        into.broken.append("no sandbox that was created has run a command")
    return into, found


def _offers_none(series: Sequence[Series]) -> bool:
    """Whether what these are of is not offered."""
    failures = [failure for one in series for failure in one.failures]
    return bool(failures) and all(one.kind == NOT_OFFERED for one in failures)


@pytest.mark.benchmark(timer=STOPWATCH)
@pytest.mark.timeout(3600)
def test_e2b_latency(
    benchmark: BenchmarkFixture, run: Run, rig_run: RigRun, profile: str,
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    at_once: list[int] = sorted(set(request.config.getoption("--coppice-concurrency") or ()))
    about = None
    if endpoint := options.chosen(rig_run.options):
        into, about = measure_endpoint(endpoint, rig_run, profile, at_once)
    else:
        into = measure_gateway(run, rig_run, profile, at_once)
    series = into.series
    again = {"concurrency": ",".join(map(str, at_once))} if at_once else {}
    record = rig_run.write(
        RIG, Path(__file__), series, clock(), again, into.broken, into.doubts, about
    )
    rig_run.deliver(benchmark, headline(series), record)


def headline(series: Sequence[Series]) -> Series:
    """The series that stands for the measurement: first commands, or creations where commands are
    not offered. Raises EndpointFailed where no sandbox did what it was asked for."""
    measured = [one for one in series if one.dimensions.get("substrate") != "noop"]
    commands = [one for one in measured if one.metric == "first-command"]
    creations = [one for one in measured if one.metric == "create-headers"]
    candidates = creations if _offers_none(commands) else commands
    for one in candidates:
        if one.samples:
            return one
    failures = [failure for one in (*commands, *measured) for failure in one.failures]
    refused = failures and all(one.kind == "refused" for one in failures)
    raise (Refused if refused else EndpointFailed)(
        f"no sandbox ran a command: {failures[0].reason if failures else 'none was asked'}",
        hint="the record keeps what was answered",
    )


def clock() -> Clock:
    return calibrated(
        "e2b-request",
        "the client's request for a sandbox; for `-alone`, the request for the command or cell; "
        "for `round-trip`, the request for the connection or the smallest request on a kept one",
        {**api_latency.STOPS, round_trip.METRIC: round_trip.STOP},
    )

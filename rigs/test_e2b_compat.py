"""Which methods of the unmodified E2B SDK work with a service, with which versions.

Each version runs in its own environment, calls every public method of its synchronous and its
asynchronous classes and checks the results (harness/gateway/compat). A sample is 1 where the method
works; else it is 0, and a failure says of which kind: the service differs from E2B, refuses the
method by name, has no such operation, or does not offer it, with what it answered. A method that a
version lacks has no sample. Operations of the service that no method uses are probed once for each
version, through the SDK's generated client.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from harness.endpoints import event_loop, options, session
from harness.endpoints.settings import Endpoint
from harness.errors import Unsupported, UsageError
from harness.gateway.compat.at_endpoint import cleared, greeted, paced, sdk_environment
from harness.gateway.compat.columns import (
    LIFE_S,
    METHOD,
    OPERATION,
    Column,
    Result,
    collect,
    columns,
    results,
)
from harness.gateway.compat.environments import Sdk, all_sdks, newest
from harness.gateway.fleets.microvm import ENVD
from harness.gateway.gateway_process import running_gateway
from harness.gateway.requirements import requirements
from harness.host.run import Run
from harness.measure.benchmark import STOPWATCH
from harness.measure.clock import calibrated
from harness.measure.collector import Collector
from harness.measure.endpoint_facts import EndpointFacts
from harness.measure.record import Clock, Scalar
from harness.paths import cache_directory
from harness.rig.info import RigInfo
from harness.rig.recorder import RigRun
from harness.sandbox.qemu.accelerator import of_microvms


def chosen(options: Mapping[str, str], profile: str = "quick") -> Sequence[Sdk]:
    """The SDKs named by the options; by default all in the full profile, else only the newest."""
    named = options.get("sdk")
    if not named:
        return all_sdks() if profile == "full" else [newest()]
    known = {sdk.name: sdk for sdk in all_sdks()}
    names = named.split(",")
    for name in names:
        if name not in known:
            raise UsageError(f"no SDK is called {name!r}", hint=f"known: {', '.join(known)}")
    return [known[name] for name in names]


def check(given: Mapping[str, str]) -> None:
    """Raise UsageError for SDKs that are unknown, and for a service that the SDKs cannot use."""
    chosen(given)
    if endpoint := options.chosen(given):
        paced(endpoint, "")
        sdk_environment(endpoint)


POOL = {"smoke": "2", "quick": "4", "full": "4"}
"""Sandboxes that the gateway keeps ready for each template."""

RIG = RigInfo(
    id="e2b-compat",
    title="E2B SDK methods by SDK version",
    claims=("coppice-e2b-sdk", "cubesandbox-e2b-compat"),
    tools=("qemu-system-x86_64",),
    requirements=requirements,
    options={**options.OPTIONS, "sdk": "only these SDKs, such as python-2.51.0,javascript-…"},
    check=check,
    ask=options.asked_for,
)
AT_ONCE = 3
"""Columns that are probed at the same time."""


def measure_gateway(run: Run, rig_run: RigRun, profile: str, wanted: Sequence[Column]) -> Collector:
    """Our own gateway; a second one with TLS for SDKs that require it."""
    into = Collector()
    with ExitStack() as stack:
        service = {
            tls: {
                **run.environment,
                **stack.enter_context(
                    running_gateway(run, "--pool", POOL[profile], *(["--tls"] if tls else []))
                ).sdk_environment,
            }
            for tls in sorted({column.sdk.requires_tls for column in wanted})
        }
        ran_by = of_microvms(run, cache_directory(), ENVD)
        rig_run.prepared((), ran_by, RIG.tools)
        rig_run.begin()
        probe(results(wanted, cache_directory(), AT_ONCE, service), None, into)
        rig_run.end()
    return into


def probe(found: Iterable[Result], endpoint: Endpoint | None, into: Collector) -> None:
    """Collect what the probes find. Raises Unsupported if no SDK can be installed."""
    missing = []
    of_system: dict[str, Scalar] = {"system": endpoint.system} if endpoint else {}
    for result in found:
        if result.unsupported:
            missing.append(result.unsupported)
        collect(result, into, endpoint.redacted if endpoint else str, **of_system)
    if not into.series:
        raise Unsupported("; ".join(missing))


def measure_endpoint(
    endpoint: Endpoint, run: Run, rig_run: RigRun, wanted: Sequence[Column]
) -> tuple[Collector, EndpointFacts]:
    """A service that is known by its address. What the SDKs make there has the run's id as
    metadata, by which it is found and deleted, also after this process was killed."""
    into = Collector()
    at_once, given = paced(endpoint, rig_run.run_id)
    variables = {**run.environment, **sdk_environment(endpoint)}
    service = {True: variables, False: variables}
    with session.begun(endpoint, rig_run.run_id, rig_run.tell) as begun:
        about = event_loop.run(greeted(endpoint, begun.journal))
        rig_run.prepared((), None, ())
        rig_run.begin()
        begun.journal.asked(LIFE_S)
        probe(results(wanted, cache_directory(), at_once, service, given), endpoint, into)
        into.doubts += event_loop.run(cleared(endpoint, begun.journal))
        rig_run.end()
    into.doubts += begun.left
    return into, about


@pytest.mark.benchmark(timer=STOPWATCH)
@pytest.mark.timeout(3600)
def test_e2b_compat(benchmark: BenchmarkFixture, run: Run, rig_run: RigRun, profile: str) -> None:
    wanted = columns(chosen(rig_run.options, profile))
    about = None
    if endpoint := options.chosen(rig_run.options):
        into, about = measure_endpoint(endpoint, run, rig_run, wanted)
    else:
        into = measure_gateway(run, rig_run, profile, wanted)
    series = into.series
    record = rig_run.write(
        RIG, Path(__file__), series, clock(), None, into.broken, into.doubts, about
    )
    methods = [one for one in series if one.metric == METHOD]
    score = replace(methods[0], samples=[one.samples[0] for one in methods], failures=())
    rig_run.deliver(benchmark, score, record)


def clock() -> Clock:
    return calibrated(
        "e2b-call",
        "a call of the SDK",
        {
            METHOD: "its result: 1 where it is correct",
            OPERATION: "its result: 1 where it is correct",
        },
    )

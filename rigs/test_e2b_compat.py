"""Which methods of the unmodified E2B SDK work with a service, with which versions.

Each version runs in its own environment, calls every public method of its synchronous and its
asynchronous classes and checks the results (harness/gateway/compat). A sample is 1 where the method
works; else it is 0, and a failure says of which kind: the service differs from E2B, refuses the
method by name, has no such operation, or does not offer it, with what it answered. A method that a
version lacks has no sample. Operations of the service that no method uses are probed once for each
version, through the SDK's generated client.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from harness.errors import Unsupported, UsageError
from harness.gateway.compat.columns import METHOD, OPERATION, Column, collect, columns, results
from harness.gateway.compat.environments import Sdk, all_sdks, newest
from harness.gateway.fleets.microvm import ENVD
from harness.gateway.gateway_process import running_gateway
from harness.gateway.requirements import requirements
from harness.host.run import Run
from harness.measure.benchmark import STOPWATCH
from harness.measure.clock import calibrated
from harness.measure.collector import Collector
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


POOL = {"smoke": "2", "quick": "4", "full": "4"}
"""Sandboxes that the gateway keeps ready for each template."""

RIG = RigInfo(
    id="e2b-compat",
    title="E2B SDK methods by SDK version",
    claims=("coppice-e2b-sdk", "cubesandbox-e2b-compat"),
    tools=("qemu-system-x86_64",),
    requirements=requirements,
    options={"sdk": "only these SDKs, such as python-2.51.0,javascript-…"},
    check=chosen,
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
        probe(wanted, service, into)
        rig_run.end()
    return into


def probe(
    wanted: Sequence[Column], service: Mapping[bool, Mapping[str, str]], into: Collector,
    at_once: int = AT_ONCE, options: Sequence[str] = (), **dimensions: Scalar,
) -> None:  # fmt: skip
    """Probe the columns. Raises Unsupported if no SDK can be installed."""
    missing = []
    for result in results(wanted, cache_directory(), at_once, service, options):
        if result.unsupported:
            missing.append(result.unsupported)
        collect(result, into, **dimensions)
    if not into.series:
        raise Unsupported("; ".join(missing))


@pytest.mark.benchmark(timer=STOPWATCH)
@pytest.mark.timeout(3600)
def test_e2b_compat(benchmark: BenchmarkFixture, run: Run, rig_run: RigRun, profile: str) -> None:
    wanted = columns(chosen(rig_run.options, profile))
    into = measure_gateway(run, rig_run, profile, wanted)
    series = into.series
    record = rig_run.write(RIG, Path(__file__), series, clock(), broken=into.broken)
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

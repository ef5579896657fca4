"""Which E2B operations work against this gateway, with which versions of the unmodified SDK.

Each version runs in its own environment, calls every operation and checks the results
(harness/gateway/compat). A sample is 1 when the call worked, otherwise 0 with the SDK's message; an
operation that a version lacks has no sample.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from harness.errors import SandboxError, Unsupported, UsageError
from harness.gateway.compat.environments import Sdk, all_sdks, newest
from harness.gateway.fleets.microvm import ENVD
from harness.gateway.gateway_process import GatewayProcess, running_gateway
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
    title="E2B operations by SDK version",
    claims=("coppice-e2b-sdk", "cubesandbox-e2b-compat"),
    tools=("qemu-system-x86_64",),
    requirements=requirements,
    options={"sdk": "only these SDKs, such as python-2.51.0,javascript-…"},
    check=chosen,
    measured_alike=(
        "de695fa1bfbe69c669ca1f5996417da7957f14a55226f9b45c98184eeba74f4a",
        "e27cdef4a56374dbd3b32fde43f933a879e10b1b1dde9e0993e8414d3b51c62c",
        "51492f2e639b110b1211085a1aac117bdfe278c9eb34b2157f7d5284d7dda1c3",
    ),
)
LIMIT_S = 400.0


def operations(sdk: Sdk, served: GatewayProcess) -> Iterator[Mapping[str, Any]]:
    """The probe's report on each operation, from one run with this SDK."""
    argv = sdk.command(cache_directory())
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    done = subprocess.run(
        argv, env={**kept, **served.sdk_environment}, capture_output=True, timeout=LIMIT_S
    )
    lines = done.stdout.decode().splitlines()
    if not lines:
        errors = done.stderr.decode(errors="replace").strip()[-600:]
        raise SandboxError(f"the probe of {sdk.name} printed nothing: {errors}")
    for line in lines:
        yield json.loads(line)


@pytest.mark.benchmark(timer=STOPWATCH)
@pytest.mark.timeout(3600)
def test_e2b_compat(benchmark: BenchmarkFixture, run: Run, rig_run: RigRun, profile: str) -> None:
    into = Collector()
    missing = []
    sdks = chosen(rig_run.options, profile)
    with ExitStack() as stack:
        served = {
            tls: stack.enter_context(
                running_gateway(run, "--pool", POOL[profile], *(["--tls"] if tls else []))
            )
            for tls in sorted({sdk.requires_tls for sdk in sdks})
        }
        ran_by = of_microvms(run, cache_directory(), ENVD)
        rig_run.prepared((), ran_by, RIG.tools)
        rig_run.begin()
        for sdk in sdks:
            try:
                reports = list(operations(sdk, served[sdk.requires_tls]))
            except Unsupported as error:
                missing.append(str(error))
                continue
            for report in reports:
                if not report.get("absent"):
                    collect(report, sdk, into)
        rig_run.end()
    series = into.series
    if not series:
        raise Unsupported("; ".join(missing))
    record = rig_run.write(RIG, Path(__file__), series, clock())
    score = replace(series[0], samples=[operation.samples[0] for operation in series])
    rig_run.deliver(benchmark, score, record)


def collect(report: Mapping[str, Any], sdk: Sdk, into: Collector) -> None:
    dimensions: dict[str, Scalar] = {
        "sdk": sdk.name, "operation": report["operation"], "plane": report["plane"],
        **({"over": "https"} if sdk.requires_tls else {}),
    }  # fmt: skip
    into.add("endpoint", "1", [float(report["works"])], (), "higher", **dimensions)
    if not report["works"]:
        into.fail("endpoint", "1", report["message"], "higher", **dimensions)


def clock() -> Clock:
    return calibrated(
        "e2b-call",
        "a call of the SDK",
        {"endpoint": "its result: 1 where it is correct"},
    )

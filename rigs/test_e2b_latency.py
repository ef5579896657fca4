"""Latency over the E2B API: creating a sandbox, its first command, its first cell.

`create-headers` ends when the response's headers have arrived, the clock of most published figures.
Over plain HTTP it is exactly that; over the SDK it is the return of the call. Each sandbox gets at
most one further request, a command or a cell, so that each is the sandbox's first. Sandboxes come
from a full pool and are killed only after the whole round: neither kills nor commands load the host
while other sandboxes are being created. The same requests to the noop fleet show the cost of the
gateway and the client alone.

The pool has rehearsed the very command and cell. `first-program` is of commands that no rehearsal
has run, drawn when the sandbox is asked for: over HTTP, one at a time.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import random
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from harness.errors import SandboxError, Unsupported
from harness.gateway.compat.environments import PYTHON, newest
from harness.gateway.fleets.microvm import ENVD
from harness.gateway.gateway_process import GatewayProcess, running_gateway
from harness.gateway.requirements import requirements
from harness.host.run import Run
from harness.measure.benchmark import STOPWATCH
from harness.measure.clock import calibrated, without_collector
from harness.measure.collector import Collector
from harness.measure.record import Clock, Facts, Scalar
from harness.paths import cache_directory
from harness.procedures.gate import at_once
from harness.rig.info import RigInfo
from harness.rig.recorder import RigRun
from harness.sandbox.qemu.accelerator import of_microvms

TEMPLATE = "code-interpreter-v1"
CONCURRENCIES = {"smoke": (1, 2), "quick": (1, 10), "full": (1, 10, 50)}
KINDS = ("create", "command", "code")
ROUNDS = {
    "smoke": {1: (0, 1, 1), 2: (1, 1, 1)},
    "quick": {1: (0, 8, 8), 10: (1, 1, 1)},
    "full": {1: (176, 96, 96), 10: (8, 8, 8), 50: (2, 2, 2)},
}
"""Rounds of each kind by concurrency, over HTTP and over the SDK; a batch is several rounds in
succession."""
PROGRAMS: Mapping[str, Sequence[str]] = {
    "sh": ("/bin/sh", "-c", "echo ready"),
    "ls": ("/bin/ls", "-d", "/usr/bin"),
    "python3": ("/usr/bin/python3", "-c", "print('ready')"),
}
PROGRAM_ROUNDS = {"smoke": 1, "quick": 6, "full": 90}
"""Sandboxes that run one of the programs first, which take turns in random order."""
METRICS = (
    "create-headers",
    "first-command",
    "first-command-alone",
    "first-run-code",
    "first-run-code-alone",
    "first-program",
    "first-program-alone",
)
RIG = RigInfo(
    id="e2b-latency",
    title="Creation, first command and first cell over the E2B API",
    claims=("cubesandbox-e2b-create",),
    tools=("qemu-system-x86_64",),
    requirements=requirements,
    measured_alike=(
        "6def5e452b02e9eb4b06e7dd2a720373c6bd59022cf30543840803b513cdb778",
        "bfc6cd2ad294798d05794a414e2ec26b284f766bff1679ef8676e4e6f4063914",
        "acb8239f2f4814d023e056d9dea9805501f9a0bf055397099ae06f3c5af0594a",
    ),
)
SETTLE_S = 0.2
"""Of rest for the host after the pool was filled."""
Sample = Mapping[str, Any]
Batch = Callable[[str, int], Sequence[Sample]]
"""Runs a number of rounds of a kind in succession; a sample for each of their sandboxes."""


class Client:
    """Plain HTTP, without an SDK: the latency of the API itself."""

    def __init__(self, served: GatewayProcess) -> None:
        self._served = served
        self._connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=120)
        self._connection.connect()

    def close(self) -> None:
        self._connection.close()

    def _post(self, path: str, body: bytes, **headers: str) -> http.client.HTTPResponse:
        self._connection.request("POST", path, body, {"X-API-KEY": self._served.key, **headers})
        return self._connection.getresponse()

    def _data_headers(
        self, sandbox: Mapping[str, Any], port: int, content_type: str
    ) -> dict[str, str]:
        return {
            "E2b-Sandbox-Id": sandbox["sandboxID"],
            "E2b-Sandbox-Port": str(port),
            "X-Access-Token": sandbox["envdAccessToken"],
            "Content-Type": content_type,
        }

    def once(self, kind: str) -> Sample:
        """Create a sandbox and send it one request: seconds by metric, and its `id`."""
        start = time.perf_counter()
        response = self._post("/v2/sandboxes", _CREATE, **{"Content-Type": "application/json"})
        headers = time.perf_counter()
        sandbox = json.loads(response.read())
        if response.status != 201:
            raise SandboxError(f"creating a sandbox failed with {response.status}: {sandbox}")
        if kind == "create":
            return {"id": sandbox["sandboxID"], "create-headers": headers - start}
        command = _COMMANDS.get(kind)
        metric = _WHOLE.get(kind, "first-program")
        begun = time.perf_counter()
        if command:
            about = self._data_headers(sandbox, 49983, "application/connect+json")
            response = self._post("/process.Process/Start", command, **about)
        else:
            about = self._data_headers(sandbox, 49999, "application/json")
            response = self._post("/execute", _CELL, **about)
        body = response.read()
        ended = time.perf_counter()
        if _EXPECTED[kind] not in body:
            raise SandboxError(f"the first {kind} returned {body!r}")
        return {
            "id": sandbox["sandboxID"], "create-headers": headers - start, metric: ended - start,
            f"{metric}-alone": ended - begun,
        }  # fmt: skip

    def kill(self, id: str) -> None:
        self._connection.request(
            "DELETE", f"/sandboxes/{id}", headers={"X-API-KEY": self._served.key}
        )
        self._connection.getresponse().read()


_CREATE = json.dumps({"templateID": TEMPLATE, "timeout": 120}).encode()


def _started(argv: Sequence[str]) -> bytes:
    """The body of a request that starts a process."""
    start = {"process": {"cmd": argv[0], "args": list(argv[1:])}, "stdin": False}
    return struct.pack(">BI", 0, len(json.dumps(start))) + json.dumps(start).encode()


_COMMANDS = {
    "command": _started(("/bin/bash", "-l", "-c", "echo ready")),
    **{name: _started(argv) for name, argv in PROGRAMS.items()},
}
_CELL = json.dumps({"code": "1+1"}).encode()
_READY = base64.b64encode(b"ready\n")
_EXPECTED = {
    "command": _READY,
    "code": b'"text": "2"',
    **dict.fromkeys(PROGRAMS, _READY),
    "ls": base64.b64encode(b"/usr/bin\n"),
}


@contextmanager
def over_http(served: GatewayProcess, concurrency: int) -> Iterator[Batch]:
    """A batch over plain HTTP."""

    def batch(kind: str, rounds: int) -> Sequence[Sample]:
        samples: list[Sample] = []

        def create(client: Client) -> None:
            try:
                samples.append(client.once(kind))
            except (SandboxError, OSError, http.client.HTTPException) as error:
                samples.append({"failed": f"{type(error).__name__}: {error}"[:300]})

        for _ in range(rounds):
            before = len(samples)
            if concurrency == 1:
                create(clients[0])
            else:
                at_once([partial(create, client) for client in clients])
            for sample in samples[before:]:
                if "id" in sample:
                    clients[0].kill(sample["id"])
        return samples

    with ExitStack() as stack:
        clients = [stack.enter_context(closing(Client(served))) for _ in range(concurrency)]
        for kind in KINDS:
            clients[0].kill(clients[0].once(kind)["id"])
        yield batch


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

        def batch(kind: str, rounds: int) -> Sequence[Sample]:
            assert process.stdin and process.stdout
            process.stdin.write(f"{kind} {rounds}\n".encode())
            process.stdin.flush()
            samples: Sequence[Sample] = json.loads(process.stdout.readline())
            return samples

        try:
            yield batch
        finally:
            process.stdin.close()
            process.wait()


def collect(into: Collector, kind: str, samples: Sequence[Sample], dimensions: Facts) -> None:
    concurrent = dimensions["concurrency"] != 1
    for sample in samples:
        if "failed" in sample:
            into.fail(_WHOLE.get(kind, "first-program"), "s", sample["failed"], **dimensions)
        for metric in METRICS:
            # At concurrency, some sandboxes already run commands while others are being created.
            mixed = metric == "create-headers" and kind != "create" and concurrent
            if metric in sample and not mixed:
                into.add(metric, "s", [sample[metric]], **dimensions)


_WHOLE = {"create": "create-headers", "command": "first-command", "code": "first-run-code"}


def measure_programs(
    served: GatewayProcess, count: int, pool: int, chance: random.Random, into: Collector
) -> None:
    """First commands that no rehearsal has run, each in a sandbox of its own."""
    names = chance.sample(sorted(PROGRAMS), k=len(PROGRAMS))
    several = [names[number % len(names)] for number in range(count)]
    chance.shuffle(several)
    by: Facts = {"substrate": "qemu", "operation": "create", "concurrency": 1, "sdk": "http"}
    with over_http(served, 1) as batch:
        for number, program in enumerate(several):
            if number % pool == 0:
                served.wait_for_pool(TEMPLATE, pool)
                time.sleep(SETTLE_S)
            found = [
                {name: value for name, value in sample.items() if name != "create-headers"}
                for sample in batch(program, 1)
            ]
            collect(into, program, found, {**by, "program": program, "rehearsed": "no"})


def measure(
    served: GatewayProcess, substrate: str, profile: str, pool: int, into: Collector
) -> None:
    """Measure every concurrency over HTTP and over the SDK."""

    def run_batches(batch: Batch, concurrency: int, dimensions: Facts) -> None:
        at_once = max(pool // concurrency, 1)
        for kind, wanted in zip(KINDS, ROUNDS[profile][concurrency], strict=True):
            for done in range(0, wanted, at_once):
                if substrate != "noop":
                    served.wait_for_pool(TEMPLATE, pool)
                    time.sleep(SETTLE_S)
                samples = batch(kind, min(at_once, wanted - done))
                collect(into, kind, samples, dimensions)

    for concurrency in CONCURRENCIES[profile]:
        dimensions: dict[str, Scalar] = {
            "substrate": substrate,
            "operation": "create",
            "concurrency": concurrency,
        }
        with over_http(served, concurrency) as batch:
            run_batches(batch, concurrency, {**dimensions, "sdk": "http"})
        try:
            with over_sdk(served, concurrency) as batch:
                run_batches(batch, concurrency, {**dimensions, "sdk": newest().name})
        except Unsupported as error:  # the SDK's packages cannot be installed here
            print(f"measured over HTTP only: {error}")


@pytest.mark.benchmark(timer=STOPWATCH)
@pytest.mark.timeout(3600)
def test_e2b_latency(benchmark: BenchmarkFixture, run: Run, rig_run: RigRun, profile: str) -> None:
    into = Collector()
    pool = max(CONCURRENCIES[profile])
    with (
        running_gateway(run, "--pool", str(pool), "--no-network", "--only", TEMPLATE) as served,
        running_gateway(run, "--substrate", "noop") as nothing,
    ):
        served.wait_for_pool(TEMPLATE, pool)
        ran_by = of_microvms(run, cache_directory(), ENVD)
        rig_run.prepared((), ran_by, RIG.tools)
        rig_run.begin()
        with without_collector():
            measure(nothing, "noop", profile, pool, into)
            measure(served, "qemu", profile, pool, into)
            # Drawn from the run's id, which is in the record.
            chance = random.Random(rig_run.run_id)
            measure_programs(served, PROGRAM_ROUNDS[profile], pool, chance, into)
        rig_run.end()
    series = into.series
    record = rig_run.write(RIG, Path(__file__), series, clock())
    shown = next(
        found for found in series if found.dimensions["substrate"] == "qemu" and found.samples
    )
    rig_run.deliver(benchmark, shown, record)


def clock() -> Clock:
    return calibrated(
        "e2b-request",
        "the client's request for a sandbox; for `-alone`, the request for the command or cell",
        {
            "create-headers": "the response's headers (HTTP), the return of create (SDK)",
            "first-command": "the end of the first command's stream",
            "first-command-alone": "the same",
            "first-run-code": "the end of the first cell's stream",
            "first-run-code-alone": "the same",
            "first-program": "the end of the stream of a command that no rehearsal has run",
            "first-program-alone": "the same",
        },
    )

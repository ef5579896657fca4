"""How long it takes over the E2B API to a sandbox, to its first command and to its first cell.

`create-headers` ends when the response's headers are there: the clock of what others publish. Over
plain HTTP it is exactly that; over the SDK it is the return of the call. A sandbox is asked for one
thing: nothing more, a command, or a cell, so that each is the first. Sandboxes come from a full
pool, and end when all of a round are through: nobody's end, and nobody's command, loads the host
while others are still being created. The same against the noop fleet shows what the gateway and the
client cost by themselves.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from harness.errors import SandboxError, Unsupported
from harness.gateway.compat.environments import PYTHON, newest
from harness.gateway.gateway_process import GatewayProcess, running_gateway
from harness.gateway.requirements import requirements
from harness.host.run import Run
from harness.measure.benchmark import STOPWATCH
from harness.measure.clock import calibrated, without_collector
from harness.measure.collector import Collector
from harness.measure.record import Clock, Facts, Scalar
from harness.paths import cache_directory
from harness.rig.info import RigInfo
from harness.rig.recorder import RigRun

TEMPLATE = "code-interpreter-v1"
CONCURRENCIES = {"smoke": (1, 2), "quick": (1, 10), "full": (1, 10, 50)}
KINDS = ("create", "command", "code")
ROUNDS = {
    "smoke": {1: (0, 1, 1), 2: (1, 1, 1)},
    "quick": {1: (0, 8, 8), 10: (1, 1, 1)},
    "full": {1: (176, 96, 96), 10: (8, 8, 8), 50: (2, 2, 2)},
}
"""Rounds of each kind, by concurrency, over each way; one after the other they are one batch."""
METRICS = (
    "create-headers",
    "first-command",
    "first-command-alone",
    "first-run-code",
    "first-run-code-alone",
)
RIG = RigInfo(
    id="e2b-latency",
    title="Creation, first command and first cell over the E2B API",
    claims=("cubesandbox-e2b-create",),
    tools=("qemu-system-x86_64",),
    requirements=requirements,
    measured_alike=("6def5e452b02e9eb4b06e7dd2a720373c6bd59022cf30543840803b513cdb778",),
)
Sample = Mapping[str, Any]
Batch = Callable[[str, int], Sequence[Sample]]
"""Runs so many rounds of a kind, one after the other; what came of each of their sandboxes."""


class Client:
    """Plain HTTP, without an SDK: what the API itself takes."""

    def __init__(self, served: GatewayProcess) -> None:
        self._served = served
        self._line = http.client.HTTPConnection("127.0.0.1", served.port, timeout=120)
        self._line.connect()

    def close(self) -> None:
        self._line.close()

    def _begin(self, path: str, body: bytes, **headers: str) -> http.client.HTTPResponse:
        self._line.request("POST", path, body, {"X-API-KEY": self._served.key, **headers})
        return self._line.getresponse()

    def _data(self, made: Mapping[str, Any], port: int, kind: str) -> dict[str, str]:
        return {
            "E2b-Sandbox-Id": made["sandboxID"],
            "E2b-Sandbox-Port": str(port),
            "X-Access-Token": made["envdAccessToken"],
            "Content-Type": kind,
        }

    def once(self, kind: str) -> Sample:
        """One sandbox, asked for one thing: seconds by metric, and `id`."""
        start = time.perf_counter()
        answer = self._begin("/v2/sandboxes", _CREATE, **{"Content-Type": "application/json"})
        headers = time.perf_counter()
        made = json.loads(answer.read())
        if answer.status != 201:
            raise SandboxError(f"a creation was answered with {answer.status}: {made}")
        if kind == "create":
            return {"id": made["sandboxID"], "create-headers": headers - start}
        begun = time.perf_counter()
        if kind == "command":
            told = self._data(made, 49983, "application/connect+json")
            said, name = self._begin("/process.Process/Start", _COMMAND, **told), "first-command"
        else:
            told = self._data(made, 49999, "application/json")
            said, name = self._begin("/execute", _CELL, **told), "first-run-code"
        text = said.read()
        ended = time.perf_counter()
        if _EXPECTED[kind] not in text:
            raise SandboxError(f"a first {kind} gave {text!r}")
        return {
            "id": made["sandboxID"], "create-headers": headers - start, name: ended - start,
            f"{name}-alone": ended - begun,
        }  # fmt: skip

    def kill(self, id: str) -> None:
        self._line.request("DELETE", f"/sandboxes/{id}", headers={"X-API-KEY": self._served.key})
        self._line.getresponse().read()


_CREATE = json.dumps({"templateID": TEMPLATE, "timeout": 120}).encode()
_START = {"process": {"cmd": "/bin/bash", "args": ["-l", "-c", "echo ready"]}, "stdin": False}
_COMMAND = struct.pack(">BI", 0, len(json.dumps(_START))) + json.dumps(_START).encode()
_CELL = json.dumps({"code": "1+1"}).encode()
_EXPECTED = {"command": base64.b64encode(b"ready\n"), "code": b'"text": "2"'}


@contextmanager
def over_http(served: GatewayProcess, concurrency: int) -> Iterator[Batch]:
    """A batch over plain HTTP."""

    def batch(kind: str, rounds: int) -> Sequence[Sample]:
        said: list[Sample] = []
        gate = threading.Barrier(concurrency)

        def one(client: Client) -> None:
            gate.wait()
            try:
                said.append(client.once(kind))
            except (SandboxError, OSError, http.client.HTTPException) as error:
                said.append({"failed": f"{type(error).__name__}: {error}"[:300]})

        for _ in range(rounds):
            before = len(said)
            if concurrency == 1:
                one(clients[0])
            else:
                threads = [threading.Thread(target=one, args=(client,)) for client in clients]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
            for sample in said[before:]:
                if "id" in sample:
                    clients[0].kill(sample["id"])
        return said

    with ExitStack() as stack:
        clients = [stack.enter_context(closing(Client(served))) for _ in range(concurrency)]
        for kind in KINDS:
            clients[0].kill(clients[0].once(kind)["id"])
        yield batch


@contextmanager
def over_sdk(served: GatewayProcess, concurrency: int) -> Iterator[Batch]:
    """A batch over the newest SDK, in a process of its own."""
    python = newest().python(cache_directory())
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    words = [str(python), str(PYTHON / "latency.py"), str(concurrency)]
    with subprocess.Popen(
        words, env={**kept, **served.sdk_environment}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin and process.stdout
        if process.stdout.readline() != b"warm\n":
            raise SandboxError("the SDK's process did not warm up")

        def batch(kind: str, rounds: int) -> Sequence[Sample]:
            assert process.stdin and process.stdout
            process.stdin.write(f"{kind} {rounds}\n".encode())
            process.stdin.flush()
            said: Sequence[Sample] = json.loads(process.stdout.readline())
            return said

        try:
            yield batch
        finally:
            process.stdin.close()
            process.wait()


def take(into: Collector, kind: str, said: Sequence[Sample], what: Facts) -> None:
    for one in said:
        if "failed" in one:
            into.fail(_WHOLE[kind], "s", one["failed"], **what)
        for metric in METRICS:
            # Of many at once, some are asked for more while others are being created.
            mixed = metric == "create-headers" and kind != "create" and what["concurrency"] != 1
            if metric in one and not mixed:
                into.add(metric, "s", [one[metric]], **what)


_WHOLE = {"create": "create-headers", "command": "first-command", "code": "first-run-code"}


def measure(
    served: GatewayProcess, substrate: str, profile: str, pool: int, into: Collector
) -> None:
    """Every concurrency over HTTP and over the SDK."""

    def measured(batch: Batch, concurrency: int, what: Facts) -> None:
        at_once = max(pool // concurrency, 1)
        for kind, wanted in zip(KINDS, ROUNDS[profile][concurrency], strict=True):
            for done in range(0, wanted, at_once):
                if substrate != "noop":
                    served.wait_for_pool(TEMPLATE, pool)
                    time.sleep(0.2)  # what filled it has settled
                take(into, kind, batch(kind, min(at_once, wanted - done)), what)

    for concurrency in CONCURRENCIES[profile]:
        what: dict[str, Scalar] = {
            "substrate": substrate,
            "operation": "create",
            "concurrency": concurrency,
        }
        with over_http(served, concurrency) as batch:
            measured(batch, concurrency, {**what, "sdk": "http"})
        try:
            with over_sdk(served, concurrency) as batch:
                measured(batch, concurrency, {**what, "sdk": newest().name})
        except Unsupported as error:  # no packages to be had here: HTTP alone is measured
            print(error)


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
        rig_run.prepared((), None, RIG.tools)
        rig_run.begin()
        with without_collector():
            measure(nothing, "noop", profile, pool, into)
            measure(served, "qemu", profile, pool, into)
        rig_run.end()
    series = into.series
    record = rig_run.write(RIG, Path(__file__), series, clock())
    shown = next(one for one in series if one.dimensions["substrate"] == "qemu" and one.samples)
    rig_run.deliver(benchmark, shown, record)


def clock() -> Clock:
    return calibrated(
        "e2b-request",
        "the client's request for a sandbox; for `alone`, its request for that",
        {
            "create-headers": "the response's headers (HTTP), the return of create (SDK)",
            "first-command": "the end of the first command's stream",
            "first-command-alone": "the same",
            "first-run-code": "the end of the first cell's stream",
            "first-run-code-alone": "the same",
        },
    )

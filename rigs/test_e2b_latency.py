"""How long it takes over the E2B API to a sandbox, to its first command and to its first cell.

`create-headers` ends when the response's headers are there: the clock of what others publish. Over
plain HTTP it is exactly that; over the SDK it is the return of the call. Sandboxes come from a full
pool, which is full again before the next round. The same against the noop fleet shows what the
gateway and the client cost by themselves.
"""

from __future__ import annotations

import base64
import gc
import http.client
import json
import os
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from harness.errors import SandboxError, Unsupported
from harness.gateway.compat.environments import PYTHON, newest
from harness.gateway.requirements import requirements
from harness.gateway.rigging import Running, gateway
from harness.host.run import Run, cache_folder
from harness.measure.benchmark import STOPWATCH
from harness.measure.clock import calibrated
from harness.measure.collector import Collector
from harness.measure.record import Clock, Facts, Scalar
from harness.rig import RigInfo
from harness.rig_run import RigRun

TEMPLATE = "code-interpreter-v1"
CONCURRENCIES = {"quick": (1, 10), "full": (1, 10, 50)}
ROUNDS = {"quick": {1: 16, 10: 1}, "full": {1: 100, 10: 8, 50: 2}}
"""Rounds of each concurrency over each way: each takes that many sandboxes of the pool."""
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
    substrates=(),
    tools=("qemu-system-x86_64",),
    requirements=requirements,
)
Sample = Mapping[str, Any]


class Client:
    """Plain HTTP, without an SDK: what the API itself takes."""

    def __init__(self, served: Running) -> None:
        self._served = served
        self._line = http.client.HTTPConnection("127.0.0.1", served.port, timeout=120)
        self._line.connect()

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

    def once(self) -> Sample:
        """One creation, command and cell: seconds by metric."""
        start = time.perf_counter()
        answer = self._begin("/v2/sandboxes", _CREATE, **{"Content-Type": "application/json"})
        headers = time.perf_counter()
        made = json.loads(answer.read())
        if answer.status != 201:
            raise SandboxError(f"a creation was answered with {answer.status}: {made}")
        try:
            begun = time.perf_counter()
            command = _envelope(
                {"process": {"cmd": "/bin/bash", "args": _ARGUMENTS}, "stdin": False}
            )
            kind = self._data(made, 49983, "application/connect+json")
            said = self._begin("/process.Process/Start", command, **kind).read()
            commanded = time.perf_counter()
            if base64.b64encode(b"ready\n") not in said:
                raise SandboxError(f"a first command gave {said!r}")
            kind = self._data(made, 49999, "application/json")
            said = self._begin("/execute", json.dumps({"code": "1+1"}).encode(), **kind).read()
            coded = time.perf_counter()
            if b'"text": "2"' not in said:
                raise SandboxError(f"a first cell gave {said!r}")
        finally:
            self._line.request(
                "DELETE", f"/sandboxes/{made['sandboxID']}", headers={"X-API-KEY": self._served.key}
            )
            self._line.getresponse().read()
        times = (headers - start, commanded - start, commanded - begun, coded - start,
                 coded - commanded)  # fmt: skip
        return dict(zip(METRICS, times, strict=True))


_CREATE = json.dumps({"templateID": TEMPLATE, "timeout": 120}).encode()
_ARGUMENTS = ["-l", "-c", "echo ready"]


def _envelope(body: Mapping[str, Any]) -> bytes:
    data = json.dumps(body).encode()
    return struct.pack(">BI", 0, len(data)) + data


def over_http(served: Running, concurrency: int, rounds: int) -> Iterator[Callable[[], Any]]:
    """Rounds to be run, each giving its samples."""
    clients = [Client(served) for _ in range(concurrency)]

    def one_round() -> Sequence[Sample]:
        said: list[Sample] = []
        gate = threading.Barrier(concurrency)

        def one(client: Client) -> None:
            gate.wait()
            try:
                said.append(client.once())
            except (SandboxError, OSError, http.client.HTTPException) as error:
                said.append({"failed": f"{type(error).__name__}: {error}"[:300]})

        threads = [threading.Thread(target=one, args=(client,)) for client in clients]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return said

    clients[0].once()
    for _ in range(rounds):
        yield one_round


@contextmanager
def sdk(served: Running, concurrency: int, rounds: int) -> Iterator[Callable[[], Any]]:
    """The newest SDK in a process of its own; what is yielded runs one round."""
    python = newest().python(cache_folder())
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    words = [str(python), str(PYTHON / "latency.py"), str(concurrency), str(rounds)]
    with subprocess.Popen(
        words, env={**kept, **served.variables}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin and process.stdout
        if process.stdout.readline() != b"warm\n":
            raise SandboxError("the SDK's process did not warm up")

        def one_round() -> Any:
            assert process.stdin and process.stdout
            process.stdin.write(b"go\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        try:
            yield one_round
        finally:
            process.stdin.close()
            process.wait()


def take(into: Collector, said: Sequence[Sample], what: Facts) -> None:
    for one in said:
        for metric in METRICS:
            if "failed" in one:
                into.fail(metric, one["failed"], what)
            else:
                into.add(metric, [one[metric]], what)


def measure(served: Running, substrate: str, profile: str, into: Collector) -> None:
    """Every concurrency over HTTP and over the SDK."""

    def ready() -> None:
        if substrate != "noop":
            served.wait_for_pool(TEMPLATE, max(CONCURRENCIES[profile]))
            time.sleep(0.2)  # what filled it has settled

    for concurrency in CONCURRENCIES[profile]:
        rounds = ROUNDS[profile][concurrency]
        what: dict[str, Scalar] = {
            "substrate": substrate,
            "operation": "create",
            "concurrency": concurrency,
        }
        ready()
        for one_round in over_http(served, concurrency, rounds):
            ready()
            take(into, one_round(), {**what, "sdk": "http"})
        try:
            with sdk(served, concurrency, rounds) as one_round:
                for _ in range(rounds):
                    ready()
                    take(into, one_round(), {**what, "sdk": newest().name})
        except Unsupported as error:  # no packages to be had here: HTTP alone is measured
            print(error)


@pytest.mark.benchmark(timer=STOPWATCH)
@pytest.mark.timeout(3600)
def test_e2b_latency(benchmark: BenchmarkFixture, run: Run, rig_run: RigRun, profile: str) -> None:
    into = Collector()
    pool = str(max(CONCURRENCIES[profile]))
    with (
        gateway(run, "--pool", pool, "--no-network", "--only", TEMPLATE) as served,
        gateway(run, "--substrate", "noop") as nothing,
    ):
        served.wait_for_pool(TEMPLATE, int(pool))
        rig_run.prepared((), None, RIG.tools)
        rig_run.begin()
        gc.collect()
        gc.disable()
        try:
            measure(nothing, "noop", profile, into)
            measure(served, "qemu", profile, into)
        finally:
            gc.enable()
        rig_run.end()
    options = "" if profile == "quick" else f" -- --profile {profile}"
    task = f"mise run bench:e2b-latency{options}"
    series = into.series()
    record = rig_run.write(RIG, Path(__file__), series, clock(), task)
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

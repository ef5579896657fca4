"""One column of the matrix: the probe with one kind of classes of one SDK, and its verdicts."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import SandboxError, Unsupported
from harness.gateway.compat.environments import Sdk
from harness.measure.collector import Collector
from harness.measure.record import FailureKind, Scalar

METHOD, OPERATION = "method", "endpoint"
"""The metrics: a method of the SDK; an operation of the service that no method uses."""
NOT_PROBED = "not probed"
SANDBOXES_MOST = 4
"""How many a probe has at once: the shared one, a paused one, and two copies."""
LIFE_S = 1800.0
"""Seconds after which the last of a probe's sandboxes has ended by itself."""
LIMIT_S = 900.0


@dataclass(frozen=True)
class Verdict:
    """On a method, or on an operation if `plane` is not None. `kind` is None if it works, and
    "failed" for a method that has no probe; `reason` is what was answered."""

    name: str
    kind: str | None
    reason: str
    plane: str | None = None


@dataclass(frozen=True)
class Column:
    """`classes` is sync, async, or "" for an SDK that has one kind."""

    sdk: Sdk
    classes: str

    @property
    def name(self) -> str:
        return f"{self.sdk.name} {self.classes}".strip()

    def dimensions(self) -> dict[str, Scalar]:
        over: dict[str, Scalar] = {"over": "https"} if self.sdk.requires_tls else {}
        return {"sdk": self.sdk.name, **({"classes": self.classes} if self.classes else {}), **over}

    def verdicts(
        self, cache: Path, environment: Mapping[str, str], options: Sequence[str],
        started: Callable[[subprocess.Popen[bytes]], object],
    ) -> Iterator[Verdict]:  # fmt: skip
        """What the probe reports, with this environment, which names the service, and options of
        its own. `started` is given its process.

        Raises Unsupported where the SDK cannot be installed.
        """
        argv = [*self.sdk.command(cache, self.classes), *options]
        with subprocess.Popen(
            argv, env=dict(environment), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:  # fmt: skip
            started(process)
            try:
                output, errors = process.communicate(timeout=LIMIT_S)
            except BaseException:
                process.kill()
                raise
        lines = output.decode().splitlines()
        if process.returncode or not lines:
            text = errors.decode(errors="replace").strip()[-600:]
            raise SandboxError(
                f"the probe of {self.name} ended with {process.returncode} after {len(lines)} "
                f"verdicts: {text}"
            )
        for line in lines:
            yield _verdict(json.loads(line))

    def surface(self, cache: Path) -> Mapping[str, bool]:
        """The SDK's methods, and whether each has a probe."""
        argv = [*self.sdk.command(cache, self.classes), "--surface"]
        output = subprocess.run(argv, check=True, capture_output=True, timeout=60).stdout
        return {one["method"]: one["probed"] for one in map(json.loads, output.splitlines())}


def _verdict(line: Mapping[str, Any]) -> Verdict:
    name = line["operation"] if "operation" in line else line["method"]
    return Verdict(name, line["kind"], line["reason"], line.get("plane"))


def columns(sdks: Sequence[Sdk]) -> Sequence[Column]:
    return [Column(sdk, classes) for sdk in sdks for classes in sdk.classes]


@dataclass(frozen=True)
class Result:
    """The verdicts of a column, or why there are none."""

    column: Column
    verdicts: Sequence[Verdict]
    unsupported: str = ""


def results(
    wanted: Sequence[Column], cache: Path, at_once: int,
    service: Mapping[bool, Mapping[str, str]], options: Sequence[str] = (),
) -> Generator[Result, None, None]:  # fmt: skip
    """The results of the columns in their order, `at_once` probes at a time. `service` has the
    environment, with the service's variables, for SDKs that require TLS (True) and for others."""

    probes: list[subprocess.Popen[bytes]] = []

    def one(column: Column) -> Result:
        try:
            service_of = service[column.sdk.requires_tls]
            return Result(column, list(column.verdicts(cache, service_of, options, probes.append)))
        except Unsupported as error:
            return Result(column, (), str(error))

    executor = ThreadPoolExecutor(at_once)
    try:
        yield from executor.map(one, wanted)
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
        for process in probes:  # that still run: their results are not wanted any more
            process.kill()
        executor.shutdown()


def collect(
    result: Result, into: Collector, redacted: Callable[[str], str] = str, **more: Scalar
) -> None:
    """A series for each verdict: 1 where it works, else 0 with the kind of failure. `redacted`
    takes secrets out of what was answered."""
    for verdict in result.verdicts:
        dimensions = {**more, **result.column.dimensions()}
        if verdict.plane is None:
            metric, dimensions["method"] = METHOD, verdict.name
        else:
            metric = OPERATION
            dimensions |= {"operation": verdict.name, "plane": verdict.plane}
        into.add(metric, "1", [float(verdict.kind is None)], (), "higher", **dimensions)
        if verdict.kind is not None:
            kind: Any = None if verdict.kind == "failed" else verdict.kind
            given: FailureKind | None = kind
            into.fail(metric, "1", redacted(verdict.reason), "higher", given, **dimensions)
        if verdict.reason == NOT_PROBED:
            into.broken.append(f"{result.column.name} has a method without a probe: {verdict.name}")

"""The run record: one JSON file per rig run, validated on reading and writing, never overwritten.

The schema, `schema/run-1.json`, documents each key. Samples are in measurement order, neither
rounded nor derived. A failed attempt has no sample but an entry in `failures`, whose `index` counts
attempts from 0.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import fastjsonschema

from harness import paths, strict_json
from harness.errors import RecordError, UnknownSchema
from harness.measure import record_digests
from harness.measure.conditions import Conditions, Reach, derived, is_readings
from harness.measure.endpoint_facts import EndpointFacts
from harness.measure.storage import write_atomically

SCHEMA = "coppice.run/1"
SCHEMA_FILE = paths.RECORD_SCHEMA
SUFFIX = ".run.json"

Scalar = str | int | float | bool | None
Facts = Mapping[str, Scalar]


@dataclass(frozen=True)
class Distribution:
    """An installed Python package, as pip names it."""

    name: str
    version: str


@dataclass(frozen=True)
class Rig:
    """The rig: its id, its file relative to its checkout, and that file's digest.

    `distribution` is the package that provides the rig, whose commit is then the record's `git`;
    None for our own rigs.
    """

    id: str
    path: str
    sha256: str
    distribution: Distribution | None = None


@dataclass(frozen=True)
class Command:
    """The exact `argv` and `cwd`, `env` with COPPICE_* only, and the `task` that repeats it."""

    argv: Sequence[str]
    cwd: str
    env: Mapping[str, str]
    task: str


@dataclass(frozen=True)
class Git:
    commit: str | None
    dirty: bool | None


@dataclass(frozen=True)
class Patch:
    path: str
    sha256: str
    applied: bool


@dataclass(frozen=True)
class Image:
    name: str
    sha256: str
    built_from: Facts


@dataclass(frozen=True)
class Machine:
    """The host that ran the sandboxes; `before` and `after` are its state around the run.

    `function_only` is the reason why its timings are invalid, if they are; `kvm` what KVM costs on
    it, where that ran the guests.
    """

    id: str
    name: str
    class_: Literal["bare-metal", "virtual-machine", "emulated"]
    cpu: str
    microcode: str | None
    cores: int
    memory_bytes: int
    storage: str
    os: str
    kernel: str
    virtualisation: str
    accelerator: str | None
    before: Facts = field(default_factory=dict)
    after: Facts = field(default_factory=dict)
    function_only: str | None = None
    kvm: Facts | None = None


@dataclass(frozen=True)
class Clock:
    """The start event, and in `stop` the stop event of each metric."""

    id: str
    start: str
    stop: Mapping[str, str]
    source: str
    resolution_ns: float
    overhead_ns: float


FailureKind = Literal["refused", "lost", "missing", "differs", "not-offered"]
NOT_OFFERED: FailureKind = "not-offered"
"""What a system does not have was not measured there, and has not failed."""


@dataclass(frozen=True)
class Failure:
    """An attempt without a sample. `kind` is None for a plain failure."""

    index: int
    reason: str
    kind: FailureKind | None = None


@dataclass(frozen=True)
class Series:
    """Samples of one metric under one set of dimensions, in measurement order.

    `conditions` are what the figure must be read with; older records lack them (`conditions_of`).
    """

    metric: str
    unit: Literal["s", "bytes", "1", "bytes/s", "1/s"]
    better: Literal["lower", "higher"]
    dimensions: Facts
    loop: Literal["closed", "open"]
    warmup: Sequence[float] = ()
    samples: Sequence[float] = ()
    failures: Sequence[Failure] = ()
    conditions: Conditions | None = None


def conditions_of(series: Series, machine: Machine) -> Conditions:
    """The conditions of a series, derived where its record does not carry them."""
    return series.conditions or derived(series, machine)


FUNCTION_ONLY = "function_only"
"""The fact of `machine.kvm` that says why some series prove function alone, and others do not."""


def function_only(series: Series, machine: Machine) -> str | None:
    """Why a series proves function alone, or all of its record; None where its figures count."""
    why = (machine.kvm or {}).get(FUNCTION_ONLY)
    some = why and series.conditions and series.conditions.reach is Reach.FUNCTION
    return machine.function_only or (str(why) if some else None)


@dataclass(frozen=True)
class Validity:
    status: Literal["valid", "suspect", "failed"]
    reasons: Sequence[str] = ()


@dataclass(frozen=True)
class Harness:
    version: str


@dataclass(frozen=True)
class RunRecord:
    run_id: str
    started: str
    finished: str
    profile: str
    rig: Rig
    claims: Sequence[str]
    command: Command
    git: Git
    patches: Sequence[Patch]
    images: Sequence[Image]
    machine: Machine
    clock: Clock
    series: Sequence[Series]
    validity: Validity
    tools: Mapping[str, str]
    harness: Harness
    endpoint: EndpointFacts | None = None

    def to_json(self) -> dict[str, Any]:
        """The record as JSON types, with the schema's names. RecordError for other types."""
        plain: dict[str, Any] = {"schema": SCHEMA, **dataclasses.asdict(self)}
        plain["machine"]["class"] = plain["machine"].pop("class_")
        for part, optional in (
            ("machine", "function_only"),
            ("machine", "kvm"),
            ("rig", "distribution"),
        ):
            if plain[part][optional] is None:
                del plain[part][optional]
        if plain["endpoint"] is None:
            del plain["endpoint"]
        for one in plain["series"]:
            if one["conditions"] is None:
                del one["conditions"]
            for failure in one["failures"]:
                if failure["kind"] is None:
                    del failure["kind"]
        # asdict keeps tuples, but the schema has only lists.
        try:
            text = strict_json.readable(json.dumps(plain, allow_nan=False, ensure_ascii=False))
            return json.loads(text)  # type: ignore[no-any-return]
        except (TypeError, ValueError, RecursionError) as error:
            raise RecordError(f"the record of {self.run_id} is not plain data: {error}") from error

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RunRecord:
        """A validated record. Raises UnknownSchema or RecordError."""
        check(data)
        machine = dict(data["machine"])
        machine["class_"] = machine.pop("class")
        return cls(
            run_id=data["run_id"],
            started=data["started"],
            finished=data["finished"],
            profile=data["profile"],
            rig=_rig(data["rig"]),
            claims=tuple(data["claims"]),
            command=Command(**data["command"]),
            git=Git(**data["git"]),
            patches=tuple(Patch(**patch) for patch in data["patches"]),
            images=tuple(Image(**image) for image in data["images"]),
            machine=Machine(**machine),
            clock=Clock(**data["clock"]),
            series=tuple(map(_series, data["series"])),
            validity=Validity(**data["validity"]),
            tools=dict(data["tools"]),
            harness=Harness(**data["harness"]),
            endpoint=EndpointFacts(**data["endpoint"]) if "endpoint" in data else None,
        )


def _series(data: Mapping[str, Any]) -> Series:
    failures = tuple(Failure(**bad) for bad in data["failures"])
    carried = data.get("conditions")
    if carried:
        carried = {"readings": is_readings(data["metric"]), **carried}
        carried["reach"] = Reach(carried["reach"])
    conditions = carried and Conditions(**carried)
    return Series(**{**data, "failures": failures, "conditions": conditions})


def _rig(data: Mapping[str, Any]) -> Rig:
    brought_by = data.get("distribution")
    return Rig(**{**data, "distribution": Distribution(**brought_by) if brought_by else None})


@functools.cache
def _validator(samples: bool) -> Callable[[Any], Any]:
    """The compiled schema; without `samples` it does not validate each sample."""
    schema = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    if not samples:
        del schema["definitions"]["samples"]["items"]
    compiled: Callable[[Any], Any] = fastjsonschema.compile(schema)
    return compiled


def _only_numbers(data: Mapping[str, Any]) -> bool:
    """Whether every sample is a JSON number, as the schema requires. This is fast; the validator
    takes microseconds for each of perhaps a million samples."""
    try:
        return all(
            set(map(type, series[name])) <= {int, float}
            for series in data["series"]
            for name in ("samples", "warmup")
        )
    except (TypeError, LookupError):
        return False


def check(data: object) -> None:
    """Validate `data`. Raises UnknownSchema or RecordError."""
    schema = data.get("schema") if isinstance(data, Mapping) else None
    if schema != SCHEMA:
        raise UnknownSchema(
            f"the record has schema {schema!r}, but this harness reads only {SCHEMA!r}",
            hint="a newer record needs a newer harness; in a checkout: git pull",
        )
    try:
        # On the slow path the whole schema is checked, for a message that names the fault.
        _validator(samples=not _only_numbers(data))(data)  # type: ignore[arg-type]
    except fastjsonschema.JsonSchemaValueException as error:
        raise RecordError(f"not a valid run record: {error.message}") from error
    names = [(series["metric"], sorted(series["dimensions"].items())) for series in data["series"]]  # type: ignore[index]
    for name in names:
        if names.count(name) > 1:
            raise RecordError(f"two series of the same name and dimensions: {name}")
    for series in data["series"]:  # type: ignore[index]
        try:
            finite = all(map(math.isfinite, chain(series["samples"], series["warmup"])))
        except OverflowError:  # an integer that no float can hold
            finite = False
        if not finite:
            raise RecordError(f"series {series['metric']!r} holds a sample that is not finite")


def parse(text: str | bytes, where: str = "the record") -> RunRecord:
    """Parse a record; `where` names it in errors. Raises UnknownSchema or RecordError."""
    try:
        data = strict_json.loads(text)
    except ValueError as error:
        raise RecordError(f"{where} is not JSON, perhaps half-written: {error}") from error
    try:
        return RunRecord.from_json(data)
    except RecordError as error:
        raise type(error)(f"{where}: {error.args[0]}", hint=error.hint) from error


def load(path: Path) -> RunRecord:
    """Read and validate one record file; it must have the digest that is kept of it.

    Raises UnknownSchema or RecordError.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror}") from error
    record_digests.check(path, text)
    return parse(text, str(path))


def find(results: Path) -> Iterator[Path]:
    """The record files under `results` and in its archive, by machine, oldest run first."""
    found: dict[str, list[Path]] = {}
    for home, others in ((results, ("published", paths.ARCHIVE)), (results / paths.ARCHIVE, ())):
        for machine in home.iterdir() if home.is_dir() else ():
            if machine.is_dir() and machine.name not in others:
                names = (file for file in os.listdir(machine) if file.endswith(SUFFIX))  # noqa: PTH208
                found.setdefault(machine.name, []).extend(machine / name for name in names)
    for name in sorted(found):
        yield from sorted(found[name], key=lambda path: path.name)


def encoded(record: RunRecord, results: Path) -> tuple[Path, bytes]:
    """The path of a record, `results`/<machine>/<run>.<rig>.run.json, and its content. Raises
    RecordError if it is not valid."""
    data = record.to_json()
    check(data)
    target = results / record.machine.id / f"{record.run_id}.{record.rig.id}{SUFFIX}"
    text = strict_json.dumps(data, indent=1) + "\n"
    return target, text.encode()


def write(record: RunRecord, results: Path) -> Path:
    """Validate a record and store it atomically. Returns its path.

    Raises RecordError (invalid, or already stored), DiskFull and PathError.
    """
    target, content = encoded(record, results)
    write_atomically(target, content)
    return target


def digest(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""What a build remembers of a record: everything but its samples, and the figures made of them.

Thousands of these are held at once, and stand as JSON in the built site's marker, so that the next
build reads only what is new.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.measure import statistics
from harness.measure.record import (
    Facts,
    Git,
    Image,
    Machine,
    Patch,
    Rig,
    RunRecord,
    Scalar,
    Series,
    Validity,
)
from harness.measure.statistics import Estimate

PERCENTILES = {"p50": 50, "p90": 90, "p95": 95, "p99": 99}
EMULATED = "emulated"
"""The class of machines that prove that something works, and tell no time."""
COUNTED = "1"
"""The unit of what is counted: that holds on any machine."""


def slug(text: str) -> str:
    """Text as it may stand in an address."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "x"


def own_dimensions(record: RunRecord) -> Sequence[Facts]:
    """Of each series, what tells it from the others of its metric."""
    found: dict[str, dict[str, set[Scalar]]] = {}
    for one in record.series:
        values = found.setdefault(one.metric, {})
        for name in one.dimensions:
            values.setdefault(name, set())
    for one in record.series:
        for name, seen in found[one.metric].items():
            seen.add(one.dimensions.get(name))
    return [
        {
            name: value
            for name, value in sorted(one.dimensions.items())
            if len(found[one.metric][name]) > 1
        }
        for one in record.series
    ]


def anchor(record: RunRecord, series: Series) -> str:
    """The place of a series on its run's page, which is its JSON pointer in the record."""
    # Almost always the very object: comparing two series would compare their samples.
    for number, one in enumerate(record.series):
        if one is series:
            return f"/series/{number}"
    return f"/series/{record.series.index(series)}"


def estimates(samples: Sequence[float]) -> dict[str, Estimate]:
    """Every statistic that so many samples allow."""
    if not samples:
        return {}
    ordered = sorted(samples)
    found = {"min": Estimate(ordered[0], None, None)}
    for name, percent in PERCENTILES.items():
        one = statistics.estimate_ordered(ordered, percent)
        if percent == 50 or one.bounded:
            found[name] = one
    found["max"] = Estimate(ordered[-1], None, None)
    return found


@dataclass(frozen=True, slots=True)
class Line:
    """A series without its samples: `n` of them, `failed` attempts, and its estimates."""

    metric: str
    unit: str
    better: str
    dimensions: Facts
    n: int
    failed: int
    anchor: str
    estimates: Mapping[str, Estimate]

    @property
    def name(self) -> str:
        """Its metric and dimensions in words, for lists."""
        facts = [f"{v}" if isinstance(v, str) else f"{k} {v}" for k, v in self.dimensions.items()
                 if v is not None]  # fmt: skip
        return ", ".join([self.metric, *facts])


@dataclass(frozen=True, slots=True)
class Brief:
    """A record without samples, states and command lines. `sha256` is its file's."""

    run_id: str
    started: str
    finished: str
    profile: str
    rig: Rig
    task: str
    git: Git
    patches: Sequence[Patch]
    images: Sequence[Image]
    machine: Machine
    validity: Validity
    lines: Sequence[Line]
    sha256: str

    @property
    def date(self) -> str:
        """The day of the run, UTC."""
        return f"{self.run_id[:4]}-{self.run_id[4:6]}-{self.run_id[6:8]}"

    @property
    def function_only(self) -> str:
        """Why this run proves function and tells no figure; empty where it tells them."""
        if self.machine.function_only:
            return self.machine.function_only
        return "the machine itself is emulated" if self.machine.class_ == EMULATED else ""

    def find(self, metric: str, dimensions: Mapping[str, Scalar]) -> Line | None:
        """The first series of that metric whose dimensions include all those given."""
        for one in self.lines:
            if one.metric == metric and fits(one.dimensions, dimensions):
                return one
        return None


def fits(have: Facts, wanted: Mapping[str, Scalar]) -> bool:
    """Whether `have` includes all that is wanted."""
    return all(name in have and have[name] == value for name, value in wanted.items())


def of(record: RunRecord, sha256: str) -> Brief:
    """What is remembered of a record."""
    host = dataclasses.replace(record.machine, before={}, after={})
    lines = [
        Line(
            one.metric,
            one.unit,
            one.better,
            dict(one.dimensions),
            len(one.samples),
            len(one.failures),
            f"/series/{number}",
            estimates(one.samples),
        )
        for number, one in enumerate(record.series)
    ]
    return Brief(
        record.run_id,
        record.started,
        record.finished,
        record.profile,
        record.rig,
        record.command.task,
        record.git,
        record.patches,
        record.images,
        host,
        record.validity,
        lines,
        sha256,
    )


def to_json(one: Brief) -> list[Any]:
    """Plain data, as short as it may be."""
    return [
        one.run_id,
        one.started,
        one.finished,
        one.profile,
        [one.rig.id, one.rig.path, one.rig.sha256],
        one.task,
        [one.git.commit, one.git.dirty],
        [[p.path, p.sha256, p.applied] for p in one.patches],
        [[i.name, i.sha256, dict(i.built_from)] for i in one.images],
        [getattr(one.machine, field) for field in _MACHINE],
        [one.validity.status, list(one.validity.reasons)],
        [
            [
                line.metric,
                line.unit,
                line.better,
                dict(line.dimensions),
                line.n,
                line.failed,
                line.anchor,
                {name: [e.value, e.low, e.high] for name, e in line.estimates.items()},
            ]
            for line in one.lines
        ],
        one.sha256,
    ]


_MACHINE = [one.name for one in dataclasses.fields(Machine) if one.name not in ("before", "after")]


def _line(
    metric: str,
    unit: str,
    better: str,
    dimensions: Facts,
    n: int,
    failed: int,
    anchor: str,
    found: Mapping[str, Sequence[Any]],
) -> Line:
    known = {name: Estimate(*one) for name, one in found.items()}
    return Line(metric, unit, better, dimensions, n, failed, anchor, known)


def from_json(data: list[Any]) -> Brief:
    """The opposite of `to_json`."""
    (run_id, started, finished, profile, rig, task, git, patches, images, machine, validity,
     lines, sha256) = data  # fmt: skip
    return Brief(
        run_id,
        started,
        finished,
        profile,
        Rig(*rig),
        task,
        Git(*git),
        [Patch(*p) for p in patches],
        [Image(*i) for i in images],
        Machine(**dict(zip(_MACHINE, machine, strict=True))),
        Validity(*validity),
        [_line(*line) for line in lines],
        sha256,
    )

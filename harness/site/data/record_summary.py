"""What a build remembers of a record: everything but its samples, and the figures made of them.

Thousands of these are held at once, and stand as JSON in the built site's marker, so that the next
build reads only what is new.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
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


@dataclass(frozen=True, slots=True, eq=False)
class Kind:
    """What a series is of; one object for all that are of the same, so that it tells them apart.

    `key` is its metric and its dimensions in the order of their names.
    """

    metric: str
    unit: str
    better: str
    dimensions: Facts
    key: tuple[str, tuple[tuple[str, Scalar], ...]]


_KINDS: dict[str, Kind] = {}


def kind(metric: str, unit: str, better: str, dimensions: Facts) -> Kind:
    """The one object for series of this kind."""
    name = compact([metric, unit, better, dict(dimensions)])
    found = _KINDS.get(name)
    if found is None:
        key = (metric, tuple(sorted(dimensions.items())))
        found = _KINDS[name] = Kind(metric, unit, better, dict(dimensions), key)
    return found


@dataclass(frozen=True, slots=True)
class Line:
    """A series without its samples: `n` of them, `failed` attempts, and its statistics.

    `number` is its place in the record. `numbers` has the least and the greatest sample, then of
    each percentile that n allows its value and bounds: thousands of these are read at every build,
    and few are asked for an estimate.
    """

    kind: Kind
    n: int
    failed: int
    number: int
    numbers: Sequence[float | None]

    @property
    def metric(self) -> str:
        return self.kind.metric

    @property
    def unit(self) -> str:
        return self.kind.unit

    @property
    def better(self) -> str:
        return self.kind.better

    @property
    def dimensions(self) -> Facts:
        return self.kind.dimensions

    @property
    def anchor(self) -> str:
        """Its place on its run's page."""
        return f"/series/{self.number}"

    def get(self, statistic: str) -> Estimate | None:
        """A statistic; None where n does not allow it."""
        at, wide = _PLACES.get(statistic, (len(self.numbers), False))
        if at >= len(self.numbers):
            return None
        value = self.numbers[at]
        assert value is not None
        return Estimate(value, *(self.numbers[at + 1 : at + 3] if wide else (None, None)))

    @property
    def statistics(self) -> Sequence[str]:
        """The names of those that it has."""
        return [name for name, (at, _) in _PLACES.items() if at < len(self.numbers)]

    @property
    def estimates(self) -> Mapping[str, Estimate]:
        """All of them by name."""
        return {name: one for name in _PLACES if (one := self.get(name))}

    @property
    def name(self) -> str:
        """Its metric and dimensions in words, for lists."""
        facts = [f"{v}" if isinstance(v, str) else f"{k} {v}" for k, v in self.dimensions.items()
                 if v is not None]  # fmt: skip
        return ", ".join([self.metric, *facts])


_PLACES = {
    "min": (0, False),
    **{name: (2 + 3 * at, True) for at, name in enumerate(PERCENTILES)},
    "max": (1, False),
}
"""Where in a line's numbers a statistic begins, and whether its bounds follow."""


def line(series: Series, number: int) -> Line:
    """What is remembered of a series."""
    found = estimates(series.samples)
    numbers: list[float | None] = []
    if found:
        numbers += [found.pop("min").value, found.pop("max").value]
    # A percentile that n does not allow has none after it that n allows.
    for one in found.values():
        numbers += [one.value, one.low, one.high]
    of = kind(series.metric, series.unit, series.better, series.dimensions)
    return Line(of, len(series.samples), len(series.failures), number, numbers)


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
    lines = [line(one, number) for number, one in enumerate(record.series)]
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


Shared = dict[str, list[Any]]
"""Plain data that many records have in common, each under a name made of its content."""


def compact(data: object) -> str:
    """JSON, as short as it may be."""
    return _ENCODE(data)


_ENCODE = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def _share(shared: Shared, data: list[Any]) -> str:
    name = hashlib.sha256(compact(data).encode()).hexdigest()[:16]
    shared[name] = data
    return name


def to_json(one: Brief, shared: Shared) -> list[Any]:
    """Plain data, as short as it may be; what others have too is put into `shared`."""
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
        _share(shared, [getattr(one.machine, field) for field in _MACHINE]),
        [one.validity.status, list(one.validity.reasons)],
        [
            [
                _share(shared, [k.metric, k.unit, k.better, dict(k.dimensions)]),
                line.n,
                line.failed,
                *line.numbers,
            ]
            for line in one.lines
            for k in (line.kind,)
        ],
        one.sha256,
    ]


def names(data: list[Any]) -> Iterator[str]:
    """What of `Shared` a brief refers to."""
    yield data[9]
    for one in data[11]:
        yield one[0]


_MACHINE = [one.name for one in dataclasses.fields(Machine) if one.name not in ("before", "after")]


class Reader:
    """Makes briefs of plain data; what several have in common is made once."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._machines: dict[str, Machine] = {}
        self._kinds: dict[str, Kind] = {}

    def _machine(self, name: str) -> Machine:
        if name not in self._machines:
            facts = dict(zip(_MACHINE, self._shared[name], strict=True))
            self._machines[name] = Machine(**facts)
        return self._machines[name]

    def _kind(self, name: str) -> Kind:
        if name not in self._kinds:
            self._kinds[name] = kind(*self._shared[name])
        return self._kinds[name]

    def __call__(self, data: list[Any]) -> Brief:
        """The opposite of `to_json`. Raises LookupError, TypeError or ValueError."""
        (run_id, started, finished, profile, rig, task, git, patches, images, machine, validity,
         lines, sha256) = data  # fmt: skip
        kinds = self._kinds
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
            self._machine(machine),
            Validity(*validity),
            [
                Line(kinds.get(one[0]) or self._kind(one[0]), one[1], one[2], number, one[3:])
                for number, one in enumerate(lines)
            ],
            sha256,
        )

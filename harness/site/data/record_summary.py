"""What a build keeps of a record: everything but its samples, and the statistics made from them.

Thousands of these are held in memory, and are stored as JSON in the built site's manifest, so that
the next build reads only new records.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from harness.measure.conditions import GUEST_KERNEL, Conditions, Reach, derived
from harness.measure.endpoint_facts import EndpointFacts
from harness.measure.record import (
    FUNCTION_ONLY,
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
from harness.measure.supersession import Measured
from harness.site.data.estimates import PERCENTILES, estimates_of
from harness.site.data.series_kind import SeriesKind, compact, series_kind

EMULATED = "emulated"
"""The class of machines whose records show that something works, but not how fast."""
COUNTED = "1"
"""The unit of counts, which are valid on any machine."""
Rank = tuple[int, bool, bool]
_STATES = ("failed", "suspect", "valid")


def anchor(record: RunRecord, series: Series) -> str:
    """The anchor of a series on its run's page, which is its JSON pointer in the record."""
    # Identity first: comparing two series would compare all their samples.
    for number, one in enumerate(record.series):
        if one is series:
            return f"/series/{number}"
    return f"/series/{record.series.index(series)}"


@dataclass(frozen=True, slots=True)
class SeriesSummary:
    """A series without its samples: their number `n`, the `failed` attempts, and its statistics.

    `number` is its index in the record. `numbers` has the minimum and maximum, then the value and
    bounds of each percentile that n allows. It is a flat list because every build reads thousands
    of these and uses few. `stated` are the conditions that its record states, where they differ
    from those that would be derived. `mean` is without bounds, which take long to compute.
    """

    kind: SeriesKind
    n: int
    failed: int
    number: int
    numbers: Sequence[float | None]
    stated: Conditions | None = None
    mean: float | None = None

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
        """Its anchor on its run's page."""
        return f"/series/{self.number}"

    def get(self, statistic: str) -> Estimate | None:
        """A statistic; None if n does not allow it."""
        at, wide = _PLACES.get(statistic, (len(self.numbers), False))
        if at >= len(self.numbers):
            return None
        value = self.numbers[at]
        assert value is not None
        return Estimate(value, *(self.numbers[at + 1 : at + 3] if wide else (None, None)))

    def value(self, statistic: str) -> float | None:
        """The value of a statistic, also of the mean, without its interval."""
        if statistic == "mean":
            return self.mean
        found = self.get(statistic)
        return found.value if found else None

    @property
    def statistics(self) -> Sequence[str]:
        """The names of its statistics."""
        return [name for name, (at, _) in _PLACES.items() if at < len(self.numbers)]

    @property
    def estimates(self) -> Mapping[str, Estimate]:
        """All statistics by name."""
        return {name: one for name in _PLACES if (one := self.get(name))}

    @property
    def name(self) -> str:
        """Its metric and dimensions as text, for lists."""
        facts = [f"{v}" if isinstance(v, str) else f"{k} {v}" for k, v in self.dimensions.items()
                 if v is not None]  # fmt: skip
        return ", ".join([self.metric, *facts])


_PLACES = {
    "min": (0, False),
    **{name: (2 + 3 * at, True) for at, name in enumerate(PERCENTILES)},
    "max": (1, False),
}
"""The index in `numbers` of each statistic, and whether its bounds follow."""


def summarise_series(
    series: Series, number: int, machine: Machine, endpoint: str = ""
) -> SeriesSummary:
    """The summary of a series of a record of this machine, of the service with this identity."""
    found = estimates_of(series)
    numbers: list[float | None] = []
    if found:
        numbers += [found.pop("min").value, found.pop("max").value]
    # If n does not allow a percentile, it allows none of the later ones.
    for one in found.values():
        numbers += [one.value, one.low, one.high]
    of = series_kind(series.metric, series.unit, series.better, series.dimensions, endpoint)
    stated = series.conditions if series.conditions != derived(series, machine) else None
    n = len(series.samples)
    mean = math.fsum(series.samples) / n if n else None
    return SeriesSummary(of, n, len(series.failures), number, numbers, stated, mean)


@dataclass(frozen=True, slots=True)
class RecordSummary:
    """A record without samples, machine states and command lines. `sha256` is its file's digest,
    `booted` the second since 1970 at which the machine had started; None where it is not known.
    With an `endpoint`, `machine` is the client's."""

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
    series: Sequence[SeriesSummary]
    sha256: str
    booted: int | None = None
    endpoint: EndpointFacts | None = None

    @property
    def date(self) -> str:
        """The day of the run, UTC."""
        return f"{self.run_id[:4]}-{self.run_id[4:6]}-{self.run_id[6:8]}"

    @property
    def function_only(self) -> str:
        """Why this run is function-only; empty if its figures count."""
        if self.machine.function_only:
            return self.machine.function_only
        return "the machine itself is emulated" if self.machine.class_ == EMULATED else ""

    @property
    def guest_kernel(self) -> str | None:
        """The kernel that its guests had by choice; None where that was the distribution's."""
        named = (one.dimensions.get(GUEST_KERNEL) for one in self.series)
        return next((str(name) for name in named if name), None)

    @property
    def proves_some(self) -> bool:
        """Whether only the function of some of its series counts, or of the whole run."""
        return bool(self.function_only) or FUNCTION_ONLY in (self.machine.kvm or {})

    def proves(self, series: Series | SeriesSummary) -> str:
        """Why one of its series, or the whole run, is function-only; empty if it counts."""
        stated = series.conditions if isinstance(series, Series) else series.stated
        some = self.proves_some and stated and stated.reach is Reach.FUNCTION
        return self.function_only or (str((self.machine.kvm or {})[FUNCTION_ONLY]) if some else "")

    def conditions(self, series: SeriesSummary) -> Conditions:
        """What the figures of one of its series must be read with."""
        return series.stated or derived(series, self.machine)

    @property
    def compared(self) -> Measured:
        """What decides whether a later record supersedes it."""
        sampled = [one for one in self.series if one.n]
        return Measured(
            self.run_id,
            self.rig,
            self.profile,
            self.git,
            self.machine,
            self.images,
            self.patches,
            self.validity.status,
            frozenset(one.kind for one in sampled if self.proves(one)),
            frozenset(one.kind for one in sampled),
            frozenset(one.kind for one in sampled if self.conditions(one).emulated),
            self.endpoint,
        )

    def rank(self, series: SeriesSummary) -> Rank:
        """How well one of its series was measured; more is better (evidence.RANKED)."""
        validity = _STATES.index(self.validity.status)
        return validity, self.profile == "full", not self.conditions(series).emulated

    def find(self, metric: str, dimensions: Mapping[str, Scalar]) -> SeriesSummary | None:
        """The first series of that metric whose dimensions include all those given."""
        for one in self.series:
            if one.metric == metric and fits(one.dimensions, dimensions):
                return one
        return None


def fits(have: Facts, wanted: Mapping[str, Scalar]) -> bool:
    """Whether `have` includes everything in `wanted`."""
    return all(name in have and have[name] == value for name, value in wanted.items())


def summarise(record: RunRecord, sha256: str) -> RecordSummary:
    """The summary of a record."""
    host = dataclasses.replace(record.machine, before={}, after={})
    of = record.endpoint.identity if record.endpoint else ""
    series = [summarise_series(one, number, host, of) for number, one in enumerate(record.series)]
    return RecordSummary(
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
        series,
        sha256,
        _booted(record),
        record.endpoint,
    )


def _booted(record: RunRecord) -> int | None:
    uptime = record.machine.before.get("uptime_s")
    if not isinstance(uptime, int | float):
        return None
    return round(datetime.fromisoformat(record.started).timestamp() - uptime)


Shared = dict[str, list[Any]]
"""Plain data shared by many records, each item under a name derived from its content."""


def _share(shared: Shared, data: list[Any]) -> str:
    name = hashlib.sha256(compact(data).encode()).hexdigest()[:16]
    shared[name] = data
    return name


def to_json(one: RecordSummary, shared: Shared) -> list[Any]:
    """Compact plain data; parts that other records have too go into `shared`."""
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
                _share(shared, [k.metric, k.unit, k.better, dict(k.dimensions), k.endpoint]),
                series.n,
                series.failed,
                _as_list(series.stated),
                series.mean,
                *series.numbers,
            ]
            for series in one.series
            for k in (series.kind,)
        ],
        one.booted,
        dataclasses.asdict(one.endpoint) if one.endpoint else None,
        one.sha256,
    ]


def _as_list(stated: Conditions | None) -> list[str | bool | None]:
    if stated is None:
        return []
    return [stated.accelerator, stated.reach, stated.rehearsed, stated.readings]


def _stated(data: list[Any]) -> Conditions | None:
    return Conditions(data[0], Reach(data[1]), *data[2:]) if data else None


def shared_names(data: list[Any]) -> Iterator[str]:
    """The names in `Shared` that a summary refers to."""
    yield data[9]
    for one in data[11]:
        yield one[0]


_MACHINE = [one.name for one in dataclasses.fields(Machine) if one.name not in ("before", "after")]


class Reader:
    """Makes summaries from plain data; shared parts are made once."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._machines: dict[str, Machine] = {}
        self._kinds: dict[str, SeriesKind] = {}

    def _machine(self, name: str) -> Machine:
        if name not in self._machines:
            facts = dict(zip(_MACHINE, self._shared[name], strict=True))
            self._machines[name] = Machine(**facts)
        return self._machines[name]

    def _kind(self, name: str) -> SeriesKind:
        if name not in self._kinds:
            self._kinds[name] = series_kind(*self._shared[name])
        return self._kinds[name]

    def __call__(self, data: list[Any]) -> RecordSummary:
        """The inverse of `to_json`. Raises LookupError, TypeError or ValueError."""
        (run_id, started, finished, profile, rig, task, git, patches, images, machine, validity,
         lines, booted, endpoint, sha256) = data  # fmt: skip
        kinds = self._kinds
        return RecordSummary(
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
                SeriesSummary(
                    kinds.get(one[0]) or self._kind(one[0]),
                    one[1],
                    one[2],
                    number,
                    one[5:],
                    _stated(one[3]),
                    one[4],
                )
                for number, one in enumerate(lines)
            ],
            sha256,
            booted,
            EndpointFacts(**endpoint) if endpoint else None,
        )

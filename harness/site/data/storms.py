"""Selects the storms that a page shows: of each substrate and service, its sweep and its storms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from harness.measure.quantity import thousands
from harness.measure.record import Scalar, Series
from harness.site.data import services
from harness.site.data.corpus import Corpus, RecordEntry

OVER_API, BELOW_API = "e2b-storm", "storm"
RIGS = (OVER_API, BELOW_API)
USABLE, CAPACITY, REACH, QUEUE = "usable", "capacity", "generator-reach", "queue"
WORKLOADS: Mapping[str, str] = {
    "burst": "500 at 50 a second",
    "template_storm": "300 at 30 a second",
    "mixed_spec": "400 at 10 a second",
}
"""The open-loop workloads of CubeSandbox's load tool, by the names that it gives them."""
_OF_SCHEDULE = ("arrivals", "rate", "workload", "generators", "through")
_OF_PROGRAM = ("program", "rehearsed")
_STATES = ("failed", "suspect", "valid")

Found = tuple[RecordEntry, Series]


@dataclass(frozen=True)
class Storm:
    """One schedule that a run offered; `own` are its dimensions."""

    entry: RecordEntry
    own: Mapping[str, Scalar]

    @property
    def rate(self) -> float:
        value = self.own.get("rate")
        return float(value) if isinstance(value, int | float) else 0.0

    @property
    def name(self) -> str:
        """Such as "burst, 500 at 50/s" for a workload, else the arrivals and their rate."""
        many = thousands(len(self.attempts))
        process = self.own.get("workload") or self.own.get("arrivals")
        shared = self.own.get("generators")
        through = f", {shared} generators" if isinstance(shared, int) and shared > 1 else ""
        return f"{process}, {many} at {self.rate:g}/s{through}"

    @property
    def attempts(self) -> Sequence[None]:
        """One for each request, of whatever program."""
        several = self._all(USABLE)
        return [None] * sum(len(one.samples) + len(one.failures) for one in several)

    def _all(self, metric: str) -> Sequence[Series]:
        return [
            one
            for one in self.entry.record.series
            if one.metric == metric and _schedule(one) == self.own
        ]

    @property
    def programs(self) -> Sequence[Mapping[str, Scalar]]:
        """What the arrivals ran first, with whether it was rehearsed: what was comes first."""
        found = [
            {name: one.dimensions[name] for name in _OF_PROGRAM if name in one.dimensions}
            for one in self._all(USABLE)
        ]
        return sorted(found, key=lambda one: one.get("rehearsed") != "yes")

    def find(self, metric: str, **dimensions: Scalar) -> Found | None:
        """A series of this storm; of the generator's, that of all generators together."""
        for one in self._all(metric):
            fits = all(one.dimensions.get(name) == value for name, value in dimensions.items())
            if fits and "generator" not in one.dimensions:
                return self.entry, one
        return None


@dataclass(frozen=True)
class Subject:
    """A substrate in one tier, our gateway over one, or a service, with its best sweep and its best
    storm of each schedule."""

    name: str
    aside: str
    rig: str
    sweep: Sequence[Storm]
    storms: Sequence[Storm]

    @property
    def capacity(self) -> Found | None:
        return self.of_run(CAPACITY)

    def of_run(self, metric: str) -> Found | None:
        """A series of the sweep's whole run."""
        if not self.sweep:
            return None
        entry = self.sweep[0].entry
        found = entry.find(metric)
        return (entry, found) if found else None

    def storm(self, workload: str) -> Storm | None:
        return next((one for one in self.storms if one.own.get("workload") == workload), None)


def _schedule(one: Series) -> Mapping[str, Scalar]:
    return {name: one.dimensions[name] for name in _OF_SCHEDULE if name in one.dimensions}


def _storms(entry: RecordEntry) -> Sequence[Storm]:
    """The schedules of a run, by rate."""
    kinds: dict[tuple[tuple[str, Scalar], ...], Mapping[str, Scalar]] = {}
    for one in entry.record.series:
        own = _schedule(one)
        if one.metric == USABLE and "through" not in own:
            kinds.setdefault(tuple(sorted(own.items())), own)
    return sorted((Storm(entry, own) for own in kinds.values()), key=lambda one: one.rate)


def _name(entry: RecordEntry) -> tuple[str, str]:
    """The subject of a run, and what else distinguishes it."""
    first = next(one for one in entry.summary.series if one.metric == USABLE)
    facts = first.dimensions
    if entry.summary.endpoint:
        return services.title(entry.summary.endpoint), "a service, over its API"
    what = "gateway over " if entry.summary.rig.id == OVER_API else ""
    how = [str(facts[name]) for name in ("tier", "vmm") if facts.get(name) is not None]
    pool = facts.get("pool")
    how += [f"pool of {pool}" if pool else "no pool"] if pool is not None else []
    return f"{what}{facts.get('substrate')}", ", ".join(how)


def _entries(corpus: Corpus, rig: str) -> Iterator[RecordEntry]:
    several = [
        *corpus.of_rig(rig, corpus.machine),
        *(one for found in corpus.endpoints.values() for one in found),
    ]
    for entry in several:
        usable = [one for one in entry.summary.series if one.metric == USABLE]
        if entry.summary.rig.id == rig and any("through" not in one.dimensions for one in usable):
            yield entry


def subjects(corpus: Corpus) -> Sequence[Subject]:
    """Every subject: over the API first, services among them. A run of the full profile that is
    valid comes before others, and of equal ones the newest."""
    found = []
    for rig in RIGS:
        by_name: dict[tuple[str, str, str], list[RecordEntry]] = {}
        for entry in _entries(corpus, rig):
            endpoint = entry.summary.endpoint
            key = (*_name(entry), endpoint.identity if endpoint else "")
            by_name.setdefault(key, []).append(entry)
        for (name, aside, _), entries in by_name.items():
            entries.sort(key=_rank)
            sweeps = [
                one for one in entries if any(s.metric == CAPACITY for s in one.summary.series)
            ]
            single: dict[str, Storm] = {}
            for entry in entries:
                if entry not in sweeps:
                    single |= {storm.name: storm for storm in _storms(entry)}
            found.append(
                Subject(
                    name,
                    aside,
                    rig,
                    _storms(sweeps[-1]) if sweeps else (),
                    sorted(single.values(), key=lambda one: (one.rate, one.name)),
                )
            )
    return found


def _rank(entry: RecordEntry) -> tuple[int, bool, str]:
    one = entry.summary
    return _STATES.index(one.validity.status), one.profile == "full", one.run_id


def reaches(corpus: Corpus) -> Sequence[Found]:
    """How many arrivals a second one generator sends on time, by the way that it works."""
    found: dict[str, Found] = {}
    for entry in sorted(corpus.of_rig(BELOW_API, corpus.machine), key=_rank):
        if any(one.metric == REACH for one in entry.summary.series):
            for one in entry.record.series:
                if one.metric == REACH:
                    found[str(one.dimensions.get("through"))] = (entry, one)
    return list(found.values())

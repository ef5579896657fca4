"""Every series that was measured more than once on a machine, run by run."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from harness.measure import comparison
from harness.measure.comparison import Outcome
from harness.measure.statistics import Estimate
from harness.site.data import figures
from harness.site.data.addresses import slug
from harness.site.data.corpus import Corpus, RecordEntry
from harness.site.data.machine_days import MachineDay, Step, days_of, explained
from harness.site.data.record_summary import SeriesSummary
from harness.site.data.series_kind import KindKey

DETAILS = ("footprint", "wakes", "host-memory", "retransmits", "cpu", "sent", "idle-switches")
"""Metrics that explain others; they have no history."""

Key = tuple[str, str, KindKey]
"""A rig, a profile, and the kind of a series."""


@dataclass(frozen=True)
class Point:
    """One run of a track: its median, and how that differs from the run before.

    `day` is set if the machine as a whole moved on that day, and this series with it.
    """

    entry: RecordEntry
    series: SeriesSummary
    median: Estimate
    change: Outcome = Outcome.SAME
    day: MachineDay | None = None

    @property
    def commit(self) -> str:
        """The commit that measured, shortened."""
        git = self.entry.summary.git
        return f"{(git.commit or 'unknown')[:8]}{', changed' if git.dirty else ''}"

    @property
    def changed(self) -> bool:
        return self.change in (Outcome.BETTER, Outcome.WORSE)

    def since(self, before: Point) -> Sequence[str]:
        """What is different from the run before, apart from the figures."""
        old, new = before.entry.summary, self.entry.summary
        facts = {
            "the rig's file": old.rig.sha256 != new.rig.sha256,
            "another kernel": old.machine.kernel != new.machine.kernel,
            "another image": {i.name: i.sha256 for i in old.images}
            != {i.name: i.sha256 for i in new.images},
        }
        return [name for name, differs in facts.items() if differs]


@dataclass(frozen=True)
class Track:
    """One series over its runs, oldest first."""

    machine: str
    rig: str
    points: Sequence[Point]

    @property
    def series(self) -> SeriesSummary:
        return self.points[-1].series

    @property
    def title(self) -> str:
        """Its rig, and the service under test, if it was one."""
        endpoint = self.newest.entry.summary.endpoint
        return f"{self.rig} of {endpoint.name}" if endpoint else self.rig

    @property
    def anchor(self) -> str:
        """Its anchor on a page of its rig."""
        facts = [f"{k}-{v}" for k, v in sorted(self.series.dimensions.items())]
        return slug("-".join([self.series.metric, *facts, self.series.kind.endpoint]).rstrip("-"))

    @property
    def newest(self) -> Point:
        return self.points[-1]

    @property
    def previous(self) -> Point:
        return self.points[-2]


def tracks(corpus: Corpus, machine: str) -> Sequence[Track]:
    """Every series with samples in at least two runs of one profile on a machine."""
    key = (tracks, machine)
    if key not in corpus.memo:
        corpus.memo[key] = list(_tracks(corpus, machine))
    return corpus.memo[key]  # type: ignore[return-value]


def machine_days(corpus: Corpus, machine: str) -> Sequence[MachineDay]:
    """The days on which a machine moved as a whole, oldest first."""
    key = (machine_days, machine)
    if key not in corpus.memo:
        corpus.memo[key] = days_of(
            _step(rig, *pair)
            for (rig, (*_, endpoint)), runs in _runs(corpus, machine).items()
            if not endpoint  # what another machine served
            for pair in itertools.pairwise(runs)
        )
    return corpus.memo[key]  # type: ignore[return-value]


def _runs(corpus: Corpus, machine: str) -> Mapping[tuple[str, KindKey], Sequence[Point]]:
    """The runs of each series, by rig and kind; of the full profile if both qualify."""
    memo = (_runs, machine)
    if memo in corpus.memo:
        return corpus.memo[memo]  # type: ignore[return-value]
    found: dict[Key, list[Point]] = {}
    # A history shows what changed from run to run; marks would make it depend on other records.
    for entry in (one.unmarked for one in corpus.machines.get(machine, ())):
        if entry.summary.validity.status == "failed":
            continue
        rig, profile = entry.summary.rig.id, entry.summary.profile
        for series in entry.summary.series:
            if series.n and series.metric not in DETAILS and not entry.summary.proves(series):
                median = figures.get(series, "p50")
                assert median
                point = Point(entry, series, median)
                found.setdefault((rig, profile, series.kind.key), []).append(point)
    made: dict[tuple[str, KindKey], Sequence[Point]] = {}
    for (rig, profile, kind), runs in found.items():
        if len(runs) > 1 and (profile == "full" or (rig, kind) not in made):
            made[rig, kind] = runs
    corpus.memo[memo] = made
    return made


def _step(rig: str, old: Point, new: Point) -> Step:
    return Step(
        new.entry.date,
        old.entry.date != new.entry.date,
        (rig, new.series.dimensions.get("substrate")),
        new.series.unit,
        old.median.value,
        new.median.value,
        old.entry.summary.machine.kernel != new.entry.summary.machine.kernel,
    )


def _tracks(corpus: Corpus, machine: str) -> Iterator[Track]:
    moved = {day.day: day for day in machine_days(corpus, machine)}
    made = []
    for (rig, (*_, endpoint)), runs in _runs(corpus, machine).items():
        outcomes = comparison.changes([one.median for one in runs], runs[-1].series.better)
        points = [runs[0]]
        for old, new, outcome in zip(runs, runs[1:], outcomes, strict=False):
            day = moved.get(new.entry.date) if not endpoint else None
            along = day if day and explained(_step(rig, old, new), day) else None
            points.append(Point(new.entry, new.series, new.median, outcome, along))
        made.append(Track(machine, rig, points))
    yield from sorted(made, key=lambda one: (one.title, one.anchor))

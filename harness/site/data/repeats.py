"""The runs of one series in one environment, and how much they differ from each other.

They are of the same machine, endpoint, rig, kernel, patches, images and accelerator, and valid:
what else differs is what a further run would differ by. Where our own gateway was measured, its
code is what was measured, so they are of the same commit too.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from harness.claims import systems
from harness.measure import between_runs
from harness.measure.between_runs import Between
from harness.site.data.record_summary import RecordSummary, SeriesSummary
from harness.site.data.series_kind import SeriesKind

_SAME_LIFE_S = 300
"""Moments of boot that are closer are the same: the wall clock is corrected now and then."""


@dataclass(frozen=True, eq=False)
class Environment:
    """Valid records of one environment, oldest first.

    `any_commit` has those that may differ in the commit of our gateway; elsewhere the same ones.
    """

    summaries: list[RecordSummary] = field(default_factory=list)
    any_commit: list[RecordSummary] = field(default_factory=list)
    _known: dict[SeriesKind, Between | None] = field(default_factory=dict)

    def between(self, kind: SeriesKind) -> Between | None:
        """The newest runs of a series, at most between_runs.MOST; None without one."""
        if kind not in self._known:
            self._known[kind] = _between(list(self._runs(kind)))
        return self._known[kind]

    def values(self, kind: SeriesKind, statistic: str) -> Sequence[float]:
        """A statistic of the newest runs, of those that have it, oldest first."""
        found = (series.value(statistic) for _, series in self._runs(kind))
        return [one for one in found if one is not None][::-1]

    def values_of_other_commits(self, kind: SeriesKind, statistic: str) -> Sequence[float]:
        """The same of runs that differ in the commit of our gateway, and in nothing else."""
        own = {one.run_id for one in self.summaries}
        others = [one for one in self.any_commit if one.run_id not in own]
        found = (series.value(statistic) for _, series in _runs(others, kind))
        return [one for one in found if one is not None][::-1]

    def _runs(self, kind: SeriesKind) -> Iterator[tuple[RecordSummary, SeriesSummary]]:
        return _runs(self.summaries, kind)


def _runs(
    summaries: Sequence[RecordSummary], kind: SeriesKind
) -> Iterator[tuple[RecordSummary, SeriesSummary]]:
    """The newest runs with this series, newest first, at most between_runs.MOST."""
    many = 0
    for one in reversed(summaries):
        for series in one.series:
            if series.kind is kind and series.n:
                yield one, series
                many += 1
                if many == between_runs.MOST:
                    return


def _between(newest_first: Sequence[tuple[RecordSummary, SeriesSummary]]) -> Between | None:
    runs = newest_first[::-1]
    medians = [median for _, series in runs if (median := series.get("p50"))]
    if not medians:
        return None
    values = [one.value for one in medians]
    return Between(
        len(runs),
        len({one.date for one, _ in runs}),
        _lives([one.booted for one, _ in runs]),
        min(values),
        max(values),
        between_runs.typical(medians),
    )


def _lives(booted: Sequence[int | None]) -> int | None:
    known = sorted(one for one in booted if one is not None)
    if len(known) < len(booted):
        return None
    return 1 + sum(b - a > _SAME_LIFE_S for a, b in pairwise(known))


def of(
    summaries: Sequence[RecordSummary], rigs: Mapping[str, Sequence[str]]
) -> Sequence[Environment | None]:
    """The environment of each record; None for one that is not valid.

    `rigs` has, for each rig, the digests of the file versions that measure the same as today's.
    """
    found: dict[Hashable, Environment] = {}
    commits: dict[Hashable, list[RecordSummary]] = {}
    made: list[Environment | None] = []
    for one in summaries:
        if one.validity.status != "valid":
            made.append(None)
            continue
        key = _key(one, rigs)
        any_commit = commits.setdefault(key, [])
        any_commit.append(one)
        environment = found.setdefault((key, _code(one)), Environment(any_commit=any_commit))
        environment.summaries.append(one)
        made.append(environment)
    return made


def _code(one: RecordSummary) -> Hashable:
    """What identifies the code that was measured, where that is our own gateway.

    A change that was not committed is known by nothing: such a run is like no other.
    """
    ours = any(
        systems.of_series(series.dimensions, one.machine.os, one.rig.id) == systems.GATEWAY
        for series in one.series
    )
    if not ours:
        return None
    return one.run_id if one.git.dirty or not one.git.commit else one.git.commit


def _key(one: RecordSummary, rigs: Mapping[str, Sequence[str]]) -> Hashable:
    rig = one.rig.sha256
    alike = rigs.get(one.rig.path, ())
    return (
        one.machine.id,
        one.endpoint.identity if one.endpoint else None,
        one.rig.id,
        alike[0] if rig in alike else rig,
        one.machine.os,
        one.machine.kernel,
        one.machine.accelerator,
        tuple(sorted((patch.path, patch.sha256) for patch in one.patches if patch.applied)),
        tuple(sorted((image.name, image.sha256) for image in one.images)),
    )

"""Selects records and series for a comparison: by file, by run, or by their properties.

::

    results/a-machine/20261123T….cold-start.run.json    one record
    20261123T181242Z                                    the run whose id starts with this
    commit=5754f44,tier=durable-pool                    all matches; of equal series the newest

Names are `rig`, `machine`, `commit`, `profile`, `kernel`, `interleave` and every dimension of a
series.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import RecordError, UsageError
from harness.measure.comparison import Comparison, Thresholds, compare, compare_paired
from harness.measure.record import RunRecord, Scalar, Series, find, load

log = logging.getLogger("coppice.compare")
INTERLEAVE = "COPPICE_INTERLEAVE"
"""The environment variable, kept in the record, of interleaved runs: SESSION/ARM/ROUND."""

Key = tuple[str, str, str, tuple[tuple[str, Scalar], ...]]
"""Rig, metric, unit, and the dimensions that must be equal."""
Located = Sequence[tuple[Path, RunRecord, Series]]
"""Series, each with its record and the record's file."""


def interleaving(record: RunRecord) -> tuple[str, str, int] | None:
    """The session, arm and round of an interleaved run; None for others."""
    parts = record.command.env.get(INTERLEAVE, "").split("/")
    if len(parts) != 3 or not parts[2].isdigit():
        return None
    return parts[0], parts[1], int(parts[2])


_OF_RECORD: Mapping[str, Callable[[RunRecord, str], bool]] = {
    "rig": lambda record, value: record.rig.id == value,
    "machine": lambda record, value: record.machine.id == value,
    "commit": lambda record, value: (record.git.commit or "").startswith(value),
    "profile": lambda record, value: record.profile == value,
    "kernel": lambda record, value: record.machine.kernel == value,
    "interleave": lambda record, value: "/".join((interleaving(record) or ("", ""))[:2]) == value,
}


@dataclass(frozen=True)
class Side:
    """One side of a comparison: the series that a selector matches, with records, oldest first."""

    text: str
    matches: Sequence[tuple[RunRecord, Series]]

    @property
    def interleaved(self) -> bool:
        """Whether every record is of an interleaved run."""
        return bool(self.matches) and all(interleaving(record) for record, _ in self.matches)

    def shared(self) -> Mapping[str, Scalar]:
        """The dimensions that all series have with the same value."""
        first = self.matches[0][1].dimensions if self.matches else {}
        return {
            name: value
            for name, value in first.items()
            if all(
                name in series.dimensions and series.dimensions[name] == value
                for _, series in self.matches
            )
        }


def select(text: str, results: Path) -> Side:
    """The series that a selector matches. UsageError when it is invalid or matches none."""
    return Side(text, [(record, series) for _, record, series in located(text, results)])


def located(text: str, results: Path) -> Located:
    """The matches of `select` with each record's file, oldest run first."""
    path = Path(text)
    if path.is_file():
        record = load(path)
        return [(path, record, series) for series in record.series]
    if "=" not in text:
        files = [file for file in find(results) if len(text) >= 8 and file.name.startswith(text)]
        records = [(file, load(file)) for file in files]
        return _some(text, [(file, r, series) for file, r in records for series in r.series])
    wanted = dict(pair.strip().partition("=")[::2] for pair in text.split(","))
    if bad := [name for name, value in wanted.items() if not name or not value]:
        raise UsageError(f"invalid selector {text!r}: {bad[0] or 'a name'} has no value")
    own = {name: value for name, value in wanted.items() if name not in _OF_RECORD}
    matching = [
        (path, record, series)
        for path, record in _readable(find(results))
        if all(_OF_RECORD[n](record, v) for n, v in wanted.items() if n in _OF_RECORD)
        for series in record.series
        if all(plain(series.dimensions.get(name)) == value for name, value in own.items())
    ]
    matching.sort(key=lambda item: item[1].run_id)
    return _some(text, matching)


def _some(text: str, matches: Located) -> Located:
    if not matches:
        raise UsageError(
            f"no record matches {text!r}",
            hint="give a record's file, the start of a run's id, or NAME=VALUE pairs: "
            f"{', '.join(_OF_RECORD)}, or a dimension",
        )
    return matches


def _readable(paths: Iterable[Path]) -> Iterable[tuple[Path, RunRecord]]:
    """Skips records that cannot be read, and says so."""
    for path in paths:
        try:
            yield path, load(path)
        except RecordError as error:
            log.warning("coppice: left out: %s", error)


def plain(value: Scalar) -> str:
    """A dimension's value as it is typed in a selector."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


@dataclass(frozen=True)
class SeriesComparison:
    """The comparison of a series that both sides have; `records` are the run ids of each."""

    rig: str
    metric: str
    unit: str
    better: str
    dimensions: Mapping[str, Scalar]
    records: tuple[Sequence[str], Sequence[str]]
    comparison: Comparison


def compare_sides(a: Side, b: Side, thresholds: Thresholds) -> Sequence[SeriesComparison]:
    """Compare every series of which both sides have samples. UsageError when there is none.

    Dimensions in which the sides differ as a whole are ignored; all others must be equal.
    """
    differing = _differing(a, b) | _differing(b, a)
    left, right = _keyed(a, differing), _keyed(b, differing)
    rows = []
    for key in left:
        if key in right:
            rows.append(_compare_series(key, left[key], right[key], thresholds))
    if not rows:
        raise UsageError(
            f"{a.text!r} and {b.text!r} have no series in common",
            hint="both must be of the same rig, with equal values of every other dimension",
        )
    return rows


def _differing(side: Side, other: Side) -> set[str]:
    """Dimensions with one value on one side, and another value or none on the other."""
    own, others = side.shared(), other.shared()
    return {
        name
        for name, value in own.items()
        if (name in others and others[name] != value)
        or not any(name in series.dimensions for _, series in other.matches)
    }


Matches = list[tuple[RunRecord, Series]]


def _keyed(side: Side, without: set[str]) -> dict[Key, Matches]:
    keyed: dict[Key, Matches] = {}
    for record, series in side.matches:
        if series.samples:
            own = tuple(sorted((n, v) for n, v in series.dimensions.items() if n not in without))
            key = (record.rig.id, series.metric, series.unit, own)
            keyed.setdefault(key, []).append((record, series))
    if not side.interleaved:
        # Not pooled, because separate runs differ by more than their samples: only the newest.
        keyed = {key: matches[-1:] for key, matches in keyed.items()}
    return keyed


def _compare_series(
    key: Key, left: Matches, right: Matches, thresholds: Thresholds
) -> SeriesComparison:
    better = left[-1][1].better
    rounds = _rounds(left, right)
    if rounds:
        result = compare_paired(*rounds, better, thresholds)
    else:
        before, after = left[-1][1].samples, right[-1][1].samples
        result = compare(before, after, better, thresholds)
    ids = [record.run_id for record, _ in left], [record.run_id for record, _ in right]
    return SeriesComparison(key[0], key[1], key[2], better, dict(key[3]), ids, result)


def _rounds(
    left: Matches, right: Matches
) -> tuple[Sequence[Sequence[float]], Sequence[Sequence[float]]] | None:
    """The samples of the rounds that both have of the newest session; None if not interleaved."""
    before, after = _by_round(left), _by_round(right)
    both = sorted(set(before) & set(after))
    if not both:
        return None
    newest = both[-1][0]
    chosen = [(session, number) for session, number in both if session == newest]
    return [before[each] for each in chosen], [after[each] for each in chosen]


def _by_round(matches: Matches) -> dict[tuple[str, int], Sequence[float]]:
    rounds = {}
    for record, series in matches:
        place = interleaving(record)
        if place:
            rounds[place[0], place[2]] = series.samples
    return rounds

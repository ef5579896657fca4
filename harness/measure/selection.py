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
from harness.measure.record_differences import Doubt, doubts_of

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
    "endpoint": lambda record, value: (
        record.endpoint is not None and value in (record.endpoint.name, record.endpoint.address)
    ),
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
        known = [_dimensions(*one) for one in self.matches]
        return {
            name: value
            for name, value in (known[0] if known else {}).items()
            if all(name in one and one[name] == value for one in known)
        }


def _dimensions(record: RunRecord, series: Series) -> Mapping[str, Scalar]:
    """The dimensions of a series; two services of one system differ in `endpoint`."""
    if record.endpoint is None:
        return series.dimensions
    return {**series.dimensions, "endpoint": record.endpoint.identity}


def select(text: str, results: Path) -> Side:
    """The series that a selector matches. UsageError when it is invalid or matches none."""
    return Side(text, [(record, series) for _, record, series in located(text, results)])


def located(text: str, results: Path) -> Located:
    """The matches of `select` with each record's file, oldest run first."""
    path = Path(text)
    if not text.strip():
        raise UsageError("an empty selector matches nothing", hint="give a record or NAME=VALUE")
    if path.is_dir():
        raise UsageError(
            f"{text} is a directory: name one record in it, or what several have in common",
            hint=f"for instance --results {text} rig=cold-start",
        )
    if path.is_file():
        record = load(path)
        return [(path, record, series) for series in record.series]
    if "=" not in text:
        if len(text) < 8 or "/" in text or text.endswith(".json"):
            raise UsageError(
                f"no record matches {text!r}, and there is no such file",
                hint="give a record's file, at least 8 characters of a run's id, or NAME=VALUE",
            )
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


Matches = list[tuple[RunRecord, Series]]
Own = tuple[tuple[str, Scalar], ...]
"""Dimensions of one side that are not matched with those of the other, but crossed."""


@dataclass(frozen=True)
class SeriesComparison:
    """The comparison of a series that both sides have; `matches` are the records of each.

    `own` are the dimensions of each side that have no counterpart in the other, such as how the
    VMM comes to be, for which each tier has ways of its own.
    """

    rig: str
    metric: str
    unit: str
    better: str
    dimensions: Mapping[str, Scalar]
    matches: tuple[Matches, Matches]
    own: tuple[Mapping[str, Scalar], Mapping[str, Scalar]]
    comparison: Comparison

    @property
    def runs(self) -> tuple[Sequence[RunRecord], Sequence[RunRecord]]:
        """The records of each side."""
        a, b = ([record for record, _ in side] for side in self.matches)
        return a, b

    @property
    def failed(self) -> tuple[int, int]:
        """How many attempts of each side have no sample."""
        a, b = (sum(len(series.failures) for _, series in side) for side in self.matches)
        return a, b

    @property
    def records(self) -> tuple[Sequence[str], Sequence[str]]:
        """The run ids of each side."""
        a, b = ([record.run_id for record in side] for side in self.runs)
        return a, b

    @property
    def doubts(self) -> Sequence[Doubt]:
        """Why the figures decide nothing; empty if every record is valid and times it."""
        return doubts_of([*self.matches[0], *self.matches[1]])


def compare_sides(a: Side, b: Side, thresholds: Thresholds) -> Sequence[SeriesComparison]:
    """Compare every series of which both sides have samples. UsageError when there is none.

    Dimensions in which the sides differ as a whole are ignored. Those that only one side knows, or
    of which the sides share no value, give a row for each pair of values. All others must be equal.
    """
    if _same_records(a, b):
        raise UsageError(
            "A and B are the same series of the same records",
            hint="compare two runs, or two configurations of one run: tier=full tier=prewarm-pool",
        )
    differing = _differing(a, b) | _differing(b, a)
    crossed = _crossed(a, b) - differing
    left, right = _keyed(a, differing, crossed), _keyed(b, differing, crossed)
    rows = [
        _compare_series(key, (own_a, own_b), mine, other, thresholds)
        for key in left
        for own_a, mine in left[key].items()
        for own_b, other in right.get(key, {}).items()
    ]
    if not rows:
        raise UsageError(
            f"A and B have no series in common: {_why_none(a, b)}",
            hint="both must be of the same rig, with equal values of every other dimension",
        )
    return rows


def _same_records(a: Side, b: Side) -> bool:
    first, second = (
        {(record.run_id, *_name(series)) for record, series in one}
        for one in (a.matches, b.matches)
    )
    return first == second


def _name(series: Series) -> tuple[str, Own]:
    return series.metric, tuple(sorted(series.dimensions.items()))


def _why_none(a: Side, b: Side) -> str:
    """The first thing that keeps two sides from having a series in common."""
    for name, side in (("A", a), ("B", b)):
        if not side.matches:
            return f"{name} has no series"
    rigs = [sorted({record.rig.id for record, _ in side.matches}) for side in (a, b)]
    if not set(rigs[0]) & set(rigs[1]):
        return f"A is of {', '.join(rigs[0])}, B is of {', '.join(rigs[1])}"
    known = [sorted({series.metric for _, series in side.matches}) for side in (a, b)]
    metrics = set(known[0]) & set(known[1])
    if not metrics:
        return f"A measured {', '.join(known[0])}, B measured {', '.join(known[1])}"
    for name, side in (("A", a), ("B", b)):
        if not any(series.samples for _, series in side.matches):
            failed = sum(len(series.failures) for _, series in side.matches)
            return f"{name} has no sample: {failed} attempts failed"
    for metric in sorted(metrics):
        units = [{s.unit for _, s in side.matches if s.metric == metric} for side in (a, b)]
        if not units[0] & units[1]:
            return f"{metric} is in {', '.join(units[0])} in A, and in {', '.join(units[1])} in B"
    return "no two series have the same metric, unit and dimensions"


def varied(a: Side, b: Side) -> Mapping[str, tuple[str, str]]:
    """The dimensions in which the sides differ as a whole, with the value of each side."""
    first, second = a.shared(), b.shared()
    return {
        name: (plain(first.get(name)), plain(second.get(name)))
        for name in sorted(_differing(a, b) | _differing(b, a))
    }


def _differing(side: Side, other: Side) -> set[str]:
    """Dimensions with one value on one side, and another value or none on the other."""
    own, others = side.shared(), other.shared()
    return {
        name
        for name, value in own.items()
        if (name in others and others[name] != value)
        or not any(name in _dimensions(*one) for one in other.matches)
    }


def _crossed(a: Side, b: Side) -> set[str]:
    """Dimensions that only one side knows, or of which the sides have no value in common."""
    names = {name for one in (*a.matches, *b.matches) for name in _dimensions(*one)}
    metrics = {one.metric for _, one in a.matches} & {one.metric for _, one in b.matches}
    found = set()
    for name in names:
        first, second = (
            {
                plain(_dimensions(record, series).get(name))
                for record, series in side.matches
                if series.samples and series.metric in metrics
            }
            for side in (a, b)
        )
        known = [any(name in _dimensions(*one) for one in side.matches) for side in (a, b)]
        if not all(known) or not first & second:
            found.add(name)
    return found


def _keyed(side: Side, without: set[str], crossed: set[str]) -> dict[Key, dict[Own, Matches]]:
    """The series that have samples: by the dimensions that must be equal, then by crossed ones."""
    keyed: dict[Key, dict[Own, Matches]] = {}
    for record, series in side.matches:
        if series.samples:
            known = _dimensions(record, series)
            facts = sorted((n, v) for n, v in known.items() if n not in without)
            shared = tuple((n, v) for n, v in facts if n not in crossed)
            own = tuple((n, v) for n, v in facts if n in crossed)
            key = (record.rig.id, series.metric, series.unit, shared)
            keyed.setdefault(key, {}).setdefault(own, []).append((record, series))
    if not side.interleaved:
        # Not pooled, because separate runs differ by more than their samples: only the newest.
        keyed = {
            key: {own: matches[-1:] for own, matches in several.items()}
            for key, several in keyed.items()
        }
    return keyed


def _compare_series(
    key: Key, own: tuple[Own, Own], left: Matches, right: Matches, thresholds: Thresholds
) -> SeriesComparison:
    better = left[-1][1].better
    rounds = _rounds(left, right)
    if rounds:
        before_rounds, after_rounds = _samples(left, rounds), _samples(right, rounds)
        result = compare_paired(before_rounds, after_rounds, better, thresholds)
        left, right = _of(left, rounds), _of(right, rounds)
    else:
        before, after = left[-1][1].samples, right[-1][1].samples
        result = compare(before, after, better, thresholds)
    if not rounds:
        left, right = left[-1:], right[-1:]
    facts = dict(own[0]), dict(own[1])
    return SeriesComparison(
        key[0], key[1], key[2], better, dict(key[3]), (left, right), facts, result
    )


@dataclass(frozen=True)
class LeftOut:
    """Series that were compared with nothing: those without a sample, and how many others."""

    without_samples: Sequence[str]
    others: int


def left_out(side: Side, at: int, rows: Sequence[SeriesComparison]) -> LeftOut:
    """The series of a side's compared records that are in no row; `at` is the side's index."""
    used = {id(series) for row in rows for _, series in row.matches[at]}
    compared = {record.run_id for row in rows for record, _ in row.matches[at]}
    empty, others = [], 0
    for record, series in side.matches:
        if record.run_id not in compared or id(series) in used:
            continue
        if series.samples:
            others += 1
        else:
            facts = " ".join(plain(v) for v in series.dimensions.values() if v is not None)
            failed = len(series.failures)
            empty.append(f"{series.metric} {facts}: all {failed} attempts failed")
    return LeftOut(empty, others)


Round = tuple[str, int]
"""The session and the number of an interleaved round."""


def _rounds(left: Matches, right: Matches) -> Sequence[Round]:
    """The rounds that both have of the newest session; empty if they were not interleaved."""
    both = sorted({_round(record) for record, _ in left} & {_round(record) for record, _ in right})
    newest = both[-1][0] if both else ""
    return [one for one in both if newest and one[0] == newest]


def _round(record: RunRecord) -> Round:
    place = interleaving(record)
    return (place[0], place[2]) if place else ("", 0)


def _samples(matches: Matches, rounds: Sequence[Round]) -> Sequence[Sequence[float]]:
    by_round = {_round(record): series.samples for record, series in matches}
    return [by_round[one] for one in rounds]


def _of(matches: Matches, rounds: Sequence[Round]) -> Matches:
    return [(record, series) for record, series in matches if _round(record) in rounds]

"""Which records and series a person means: by file, by run, or by what they have in common.

::

    results/a-machine/20261123T….cold-start.run.json    one record
    20261123T181242Z                                    the run whose id begins so
    commit=3f19571,tier=durable-pool                    all that fit; of equal series the newest

Names are `rig`, `machine`, `commit`, `profile`, `kernel`, `interleave` and every dimension of a
series.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import RecordError, UsageError
from harness.measure.comparison import Comparison, Thresholds, compare, compare_paired
from harness.measure.record import RunRecord, Scalar, Series, find, load

INTERLEAVE = "COPPICE_INTERLEAVE"
"""In the environment, and so on the record, of runs that took turns: SESSION/ARM/ROUND."""

Key = tuple[str, str, str, tuple[tuple[str, Scalar], ...]]
"""Rig, metric, unit, and the dimensions that must agree."""
Located = Sequence[tuple[Path, RunRecord, Series]]
"""Series, each with its record and that record's file."""


def turn(record: RunRecord) -> tuple[str, str, int] | None:
    """The session, the arm and the round of a run that took turns with others."""
    parts = record.command.env.get(INTERLEAVE, "").split("/")
    if len(parts) != 3 or not parts[2].isdigit():
        return None
    return parts[0], parts[1], int(parts[2])


_OF_RECORD: Mapping[str, Callable[[RunRecord, str], bool]] = {
    "rig": lambda one, value: one.rig.id == value,
    "machine": lambda one, value: one.machine.id == value,
    "commit": lambda one, value: (one.git.commit or "").startswith(value),
    "profile": lambda one, value: one.profile == value,
    "kernel": lambda one, value: one.machine.kernel == value,
    "interleave": lambda one, value: "/".join((turn(one) or ("", ""))[:2]) == value,
}


@dataclass(frozen=True)
class Side:
    """What one selector means: each series with its record, oldest first."""

    text: str
    found: Sequence[tuple[RunRecord, Series]]

    @property
    def interleaved(self) -> bool:
        return bool(self.found) and all(turn(record) for record, _ in self.found)

    def shared(self) -> Mapping[str, Scalar]:
        """Dimensions that all of its series have, with one value."""
        first = self.found[0][1].dimensions if self.found else {}
        return {
            name: value
            for name, value in first.items()
            if all(
                name in one.dimensions and one.dimensions[name] == value for _, one in self.found
            )
        }


def select(text: str, results: Path) -> Side:
    """The series that a selector means. Raises UsageError when it means none."""
    return Side(text, [(record, one) for _, record, one in located(text, results)])


def located(text: str, results: Path) -> Located:
    """The same with each record's file, oldest run first."""
    path = Path(text)
    if path.is_file():
        record = load(path)
        return [(path, record, one) for one in record.series]
    if "=" not in text:
        files = [one for one in find(results) if len(text) >= 8 and one.name.startswith(text)]
        records = [(one, load(one)) for one in files]
        return _some(text, [(path, r, one) for path, r in records for one in r.series])
    wanted = dict(one.strip().partition("=")[::2] for one in text.split(","))
    if bad := [name for name, value in wanted.items() if not name or not value]:
        raise UsageError(f"{text!r} is no selector: {bad[0] or 'a name'} has no value")
    own = {name: value for name, value in wanted.items() if name not in _OF_RECORD}
    matching = [
        (path, record, one)
        for path, record in _readable(find(results))
        if all(_OF_RECORD[n](record, v) for n, v in wanted.items() if n in _OF_RECORD)
        for one in record.series
        if all(plain(one.dimensions.get(name)) == value for name, value in own.items())
    ]
    matching.sort(key=lambda item: item[1].run_id)
    return _some(text, matching)


def _some(text: str, found: Located) -> Located:
    if not found:
        raise UsageError(
            f"no record fits {text!r}",
            hint="name a record's file, the beginning of a run's id, or NAME=VALUE pairs: "
            f"{', '.join(_OF_RECORD)}, or a dimension",
        )
    return found


def _readable(paths: Iterable[Path]) -> Iterable[tuple[Path, RunRecord]]:
    """What cannot be read is none of those that were asked for; the site lists it."""
    for path in paths:
        try:
            yield path, load(path)
        except RecordError:
            continue


def plain(value: Scalar) -> str:
    """A dimension's value as it is typed in a selector."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)


@dataclass(frozen=True)
class Row:
    """One series that both sides have, compared."""

    rig: str
    metric: str
    unit: str
    better: str
    dimensions: Mapping[str, Scalar]
    records: tuple[Sequence[str], Sequence[str]]
    comparison: Comparison


def compared(a: Side, b: Side, thresholds: Thresholds) -> Sequence[Row]:
    """Every series that both sides have samples of. UsageError when there is none.

    Dimensions in which the sides differ as a whole are what is compared; all others must agree.
    """
    differing = _differing(a, b) | _differing(b, a)
    left, right = _keyed(a, differing), _keyed(b, differing)
    rows = []
    for key in left:
        if key in right:
            rows.append(_row(key, left[key], right[key], thresholds))
    if not rows:
        raise UsageError(
            f"{a.text!r} and {b.text!r} have no series in common",
            hint="they must be of one rig, and agree in every dimension that is not compared",
        )
    return rows


def _differing(one: Side, other: Side) -> set[str]:
    """Dimensions that one side has fixed, and the other to another value or not at all."""
    ours, theirs = one.shared(), other.shared()
    return {
        name
        for name, value in ours.items()
        if (name in theirs and theirs[name] != value)
        or not any(name in series.dimensions for _, series in other.found)
    }


Found = list[tuple[RunRecord, Series]]


def _keyed(side: Side, without: set[str]) -> dict[Key, Found]:
    found: dict[Key, Found] = {}
    for record, one in side.found:
        if one.samples:
            own = tuple(sorted((n, v) for n, v in one.dimensions.items() if n not in without))
            found.setdefault((record.rig.id, one.metric, one.unit, own), []).append((record, one))
    if not side.interleaved:
        # Not pooled: runs apart differ by more than their samples, so the newest stands alone.
        found = {key: several[-1:] for key, several in found.items()}
    return found


def _row(key: Key, left: Found, right: Found, thresholds: Thresholds) -> Row:
    better = left[-1][1].better
    rounds = _rounds(left, right)
    if rounds:
        result = compare_paired(*rounds, better, thresholds)
    else:
        one, other = left[-1][1].samples, right[-1][1].samples
        result = compare(one, other, better, thresholds)
    ids = [record.run_id for record, _ in left], [record.run_id for record, _ in right]
    return Row(key[0], key[1], key[2], better, dict(key[3]), ids, result)


def _rounds(
    left: Found, right: Found
) -> tuple[Sequence[Sequence[float]], Sequence[Sequence[float]]] | None:
    """The samples of each round that both have, of the newest session; None without turns."""
    one, other = _by_round(left), _by_round(right)
    both = sorted(set(one) & set(other))
    if not both:
        return None
    newest = both[-1][0]
    chosen = [each for each in both if each[0] == newest]
    return [one[each] for each in chosen], [other[each] for each in chosen]


def _by_round(found: Found) -> dict[tuple[str, int], Sequence[float]]:
    rounds = {}
    for record, series in found:
        place = turn(record)
        if place:
            rounds[place[0], place[2]] = series.samples
    return rounds

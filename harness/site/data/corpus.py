"""What pages are made of: every record in brief, every published figure, claim, and problem."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.claims.claims import Claim
from harness.claims.claims import load as load_claims
from harness.claims.published import Figure
from harness.claims.published import load as load_published
from harness.errors import RecordError
from harness.measure import record as records
from harness.measure.record import RunRecord, Scalar, Series
from harness.site.data.record_summary import Brief, Kind, Line, anchor, fits, of, slug

__all__ = [
    "Corpus",
    "Entry",
    "Place",
    "Problem",
    "Told",
    "anchor",
    "load",
    "places",
    "slug",
]


@dataclass(frozen=True)
class Place:
    """A record's file, and where the site shows it: `stem` below the site's root."""

    path: Path
    shown: str
    stem: str


@dataclass(frozen=True)
class Entry:
    """One record in brief, and in full when it is asked for."""

    brief: Brief
    place: Place

    @functools.cached_property
    def record(self) -> RunRecord:
        """The whole record, read when it is first asked for."""
        return records.parse(self.content, self.place.shown)

    @property
    def content(self) -> bytes:
        """The record's file as it is."""
        try:
            return self.place.path.read_bytes()
        except OSError as error:
            raise RecordError(f"{self.place.shown} went away: {error.strerror}") from error

    @property
    def page(self) -> str:
        return f"{self.place.stem}.html"

    @property
    def raw(self) -> str:
        return f"{self.place.stem}.json"

    @property
    def date(self) -> str:
        """The day of the run, UTC."""
        return self.brief.date

    def find(self, metric: str, **dimensions: Scalar) -> Series | None:
        """The series of that metric whose dimensions include all those given."""
        for one in self.record.series:
            if one.metric == metric and fits(one.dimensions, dimensions):
                return one
        return None


Told = tuple[int, Entry, Line]
"""A series that tells figures, its record, and that record's place among the rig's, oldest 0."""


@dataclass(frozen=True)
class Problem:
    """A file that was left out, and the error that says why."""

    path: str
    error: str


@dataclass(frozen=True)
class Corpus:
    """Everything that pages are made of. `entries` are sorted oldest first.

    `rigs` has the digests of each rig's file that measure as it does now, `today` the day that ages
    count from.
    """

    entries: Sequence[Entry]
    problems: Sequence[Problem]
    published: Sequence[Figure]
    claims: Sequence[Claim] = ()
    rigs: Mapping[str, Sequence[str]] = field(default_factory=dict)
    patches: Mapping[str, str] = field(default_factory=dict)
    today: str = ""
    address: str = ""

    @functools.cached_property
    def _figures(self) -> Mapping[str, Figure]:
        return {one.id: one for one in self.published}

    def figure(self, id: str) -> Figure | None:
        return self._figures.get(id)

    @functools.cached_property
    def machine(self) -> str | None:
        """The machine that was measured last; one of function only where there is no other."""
        real = [one for one in self.entries if not one.brief.function_only]
        chosen = real or self.entries
        return chosen[-1].brief.machine.id if chosen else None

    @functools.cached_property
    def machines(self) -> Mapping[str, Sequence[Entry]]:
        """Every machine's records, oldest first; the machine measured last comes first."""
        found: dict[str, list[Entry]] = {}
        for entry in reversed(self.entries):
            found.setdefault(entry.brief.machine.id, []).append(entry)
        return {
            id: several[::-1]
            for id, several in sorted(
                found.items(), key=lambda one: bool(one[1][0].brief.function_only)
            )
        }

    @functools.cached_property
    def _by_rig(self) -> Mapping[tuple[str, str], Sequence[Entry]]:
        found: dict[tuple[str, str], list[Entry]] = {}
        for entry in self.entries:
            found.setdefault((entry.brief.rig.id, entry.brief.machine.id), []).append(entry)
        return found

    @functools.cached_property
    def _telling(self) -> Mapping[tuple[str, str], Sequence[Entry]]:
        return {
            key: [entry for entry in several if not entry.brief.function_only]
            for key, several in self._by_rig.items()
        }

    def of_rig(self, rig: str, machine: str | None) -> Sequence[Entry]:
        """Records of one rig on one machine that tell figures, oldest first."""
        return self._telling.get((rig, machine or ""), ())

    @functools.cached_property
    def _by_metric(self) -> Mapping[tuple[str, str, str], Mapping[Kind, Sequence[Told]]]:
        found: dict[tuple[str, str, str], dict[Kind, list[Told]]] = {}
        for (rig, machine), entries in self._telling.items():
            of_rig: dict[Kind, list[Told]] = {}
            for at, entry in enumerate(entries):
                for line in entry.brief.lines:
                    if line.kind in of_rig:
                        of_rig[line.kind].append((at, entry, line))
                    else:
                        of_rig[line.kind] = [(at, entry, line)]
            for kind, several in of_rig.items():
                found.setdefault((rig, machine, kind.metric), {})[kind] = several
        return found

    def told(self, rig: str, machine: str | None, metric: str) -> Mapping[Kind, Sequence[Told]]:
        """Every series of a metric that a rig's records tell figures by, by what it is of, oldest
        first; thousands of records have a few kinds of series."""
        return self._by_metric.get((rig, machine or "", metric), {})

    def newest(
        self, rig: str, machine: str | None, metric: str, *, tried: bool = False
    ) -> Iterator[Told]:
        """Of each kind of series the newest of the full profile, else the newest of any; those
        without a sample count when it was enough that it was `tried`."""
        for several in self.told(rig, machine, metric).values():
            usable = [one for one in several if one[2].n or tried]
            full = [one for one in usable if one[1].brief.profile == "full"]
            if usable:
                yield (full or usable)[-1]

    @functools.cached_property
    def memo(self) -> dict[object, object]:
        """What was worked out of this corpus before, for whoever asks for it again."""
        return {}

    @functools.cached_property
    def proving(self) -> Mapping[tuple[str, str], Sequence[Entry]]:
        """By rig and machine, the records that prove function only, oldest first."""
        found = {
            key: [entry for entry in several if entry.brief.function_only]
            for key, several in self._by_rig.items()
        }
        return {key: several for key, several in found.items() if several}


def places(results: Path) -> tuple[Sequence[Place], Sequence[Problem]]:
    """Every record's file below `results` with its place on the site; and those that have none."""
    found: list[Place] = []
    problems: list[Problem] = []
    taken: dict[str, str] = {}
    directories: dict[str, str] = {}
    for path in records.find(results):
        directory = path.parent.name
        shown = f"{directory}/{path.name}"
        if directory not in directories:
            directories[directory] = slug(directory)
        stem = f"runs/{directories[directory]}/{slug(path.name.removesuffix('.run.json'))}"
        if stem in taken:
            problems.append(Problem(shown, f"{shown}: its page would be that of {taken[stem]}"))
            continue
        taken[stem] = shown
        found.append(Place(path, shown, stem))
    return found, problems


def read(place: Place) -> tuple[bytes, RunRecord] | Problem:
    """One record, or why it cannot be shown."""
    try:
        content = place.path.read_bytes()
        return content, records.parse(content, place.shown)
    except (RecordError, OSError, RecursionError) as error:
        return Problem(place.shown, str(error))


def load(results: Path, published_directory: Path) -> Corpus:
    """Read everything below `results`, without making a page of it.

    Raises PublishedError: those files are ours, and a page that lost one would mislead.
    """
    found, problems = places(results)
    entries, left_out = [], list(problems)
    for place in found:
        one = read(place)
        if isinstance(one, Problem):
            left_out.append(one)
        else:
            content, record = one
            entries.append(Entry(of(record, hashlib.sha256(content).hexdigest()), place))
    entries.sort(key=lambda entry: (entry.brief.run_id, entry.page))
    figures = load_published(published_directory)
    today = entries[-1].date if entries else "1970-01-01"
    return Corpus(tuple(entries), tuple(left_out), figures, load_claims(figures), today=today)


def entry_of(record: RunRecord, stem: str = "runs/a/b", path: Path = Path("none")) -> Entry:
    """An entry of a record that is in memory already."""
    made = Entry(of(record, "0" * 64), Place(path, path.name, stem))
    made.__dict__["record"] = record
    return made

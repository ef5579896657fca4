"""What pages are made of: summaries of all records, published figures, claims, and problems."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.claims import answering
from harness.claims.beside import Placements
from harness.claims.beside import load as load_beside
from harness.claims.claims import Claim
from harness.claims.claims import load as load_claims
from harness.claims.matrices import PublishedMatrix
from harness.claims.matrices import load as load_matrices
from harness.claims.published import Figure
from harness.claims.published import load as load_published
from harness.claims.verdict import Mark
from harness.errors import RecordError
from harness.measure import record as records
from harness.measure import record_digests, supersession
from harness.measure.conditions import GUEST_KERNEL
from harness.measure.record import RunRecord, Scalar, Series
from harness.measure.supersession import Superseded
from harness.site.data import marks, repeats
from harness.site.data.addresses import slug
from harness.site.data.record_summary import (
    RecordSummary,
    SeriesSummary,
    anchor,
    fits,
    summarise,
)
from harness.site.data.repeats import Environment
from harness.site.data.series_kind import SeriesKind

__all__ = [
    "Corpus",
    "Place",
    "Problem",
    "RecordEntry",
    "SeriesAt",
    "anchor",
    "load",
    "places",
    "with_marks",
]


@dataclass(frozen=True)
class Place:
    """A record's file, and its path on the site without a suffix (`stem`)."""

    path: Path
    shown: str
    stem: str


@dataclass(frozen=True)
class RecordEntry:
    """One record: its summary, and the whole record on demand.

    `marks` says what has changed since it was made, `environment` has the runs that differ in
    nothing that is recorded (`with_marks`).
    """

    summary: RecordSummary
    place: Place
    marks: Sequence[Mark] = ()
    environment: Environment | None = None

    @functools.cached_property
    def record(self) -> RunRecord:
        """The whole record, read on first use."""
        return records.parse(self.content, self.place.shown)

    @property
    def unmarked(self) -> RecordEntry:
        """The same without marks, for pages that depend on this record alone."""
        return dataclasses.replace(self, marks=(), environment=None)

    @property
    def content(self) -> bytes:
        """The bytes of the record's file."""
        try:
            return self.place.path.read_bytes()
        except OSError as error:
            raise RecordError(
                f"{self.place.shown} cannot be read any more: {error.strerror}"
            ) from error

    @property
    def page(self) -> str:
        return f"{self.place.stem}.html"

    @property
    def raw(self) -> str:
        return f"{self.place.stem}.json"

    @property
    def date(self) -> str:
        """The day of the run, UTC."""
        return self.summary.date

    @property
    def status_note(self) -> str:
        """What a chart notes beside the run's figures: its validity, unless it is valid."""
        status = self.summary.validity.status
        return "" if status == "valid" else status

    def find(self, metric: str, **dimensions: Scalar) -> Series | None:
        """The series of that metric whose dimensions include all those given."""
        for one in self.record.series:
            if one.metric == metric and fits(one.dimensions, dimensions):
                return one
        return None


SeriesAt = tuple[int, RecordEntry, SeriesSummary]
"""A record's position among its rig's records (oldest is 0), the record, and one of its series."""


@dataclass(frozen=True)
class Problem:
    """A file that was left out, and the error."""

    path: str
    error: str


@dataclass(frozen=True)
class Corpus:
    """Everything that pages are made of. `entries` are sorted oldest first.

    `rigs` has, for each rig, the digests of the file versions that measure the same as today's;
    ages are counted from `today`.
    """

    entries: Sequence[RecordEntry]
    problems: Sequence[Problem]
    published: Sequence[Figure]
    claims: Sequence[Claim] = ()
    rigs: Mapping[str, Sequence[str]] = field(default_factory=dict)
    patches: Mapping[str, str] = field(default_factory=dict)
    today: str = ""
    address: str = ""
    matrices: Sequence[PublishedMatrix] = ()

    @functools.cached_property
    def _figures(self) -> Mapping[str, Figure]:
        return {one.id: one for one in self.published}

    @functools.cached_property
    def beside(self) -> Placements:
        """Where published figures stand beside ours."""
        return load_beside(self.published)

    def figure(self, id: str) -> Figure | None:
        return self._figures.get(id)

    @functools.cached_property
    def superseded(self) -> Mapping[str, Superseded]:
        """The records that later ones have superseded, by run."""
        return supersession.superseded([one.summary.compared for one in self.entries])

    @functools.cached_property
    def by_run(self) -> Mapping[str, RecordEntry]:
        return {one.summary.run_id: one for one in self.entries}

    @property
    def machine(self) -> str | None:
        """The machine with the most evidence; a function-only one if there is no other."""
        return next(iter(self.machines), None)

    @functools.cached_property
    def machines(self) -> Mapping[str, Sequence[RecordEntry]]:
        """Every machine's records, oldest first; the machine with the most evidence comes first,
        of equal ones that measured last. One record of a new machine changes no first place. An
        endpoint's records are with the machine of the client."""
        found: dict[str, list[RecordEntry]] = {}
        for entry in reversed(self.entries):
            found.setdefault(entry.summary.machine.id, []).append(entry)
        first = sorted(found, key=self._evidence, reverse=True)
        return {id: found[id][::-1] for id in first}

    def _evidence(self, machine: str) -> tuple[bool, int, int]:
        """Whether a machine has timings, how many claims it can answer, and how many kinds of
        series it has; only valid series with samples count, and none of an endpoint's."""
        valid = {
            place: [
                kind
                for kind, several in kinds.items()
                if not kind.endpoint
                and any(
                    one.n and entry.summary.validity.status == "valid" for _, entry, one in several
                )
            ]
            for place, kinds in self._by_metric.items()
            if place[1] == machine
        }
        answered = sum(
            any(
                answering.answers(kind.dimensions, answer)
                for answer in claim.answers
                for kind in valid.get((answer.rig, machine, answer.metric), ())
            )
            for claim in self.claims
        )
        timed = any(place[1] == machine for place in self._by_metric)
        return timed, answered, sum(map(len, valid.values()))

    @functools.cached_property
    def _by_rig(self) -> Mapping[tuple[str, str], Sequence[RecordEntry]]:
        found: dict[tuple[str, str], list[RecordEntry]] = {}
        for entry in self.entries:
            found.setdefault((entry.summary.rig.id, entry.summary.machine.id), []).append(entry)
        return found

    @functools.cached_property
    def _with_figures(self) -> Mapping[tuple[str, str], Sequence[RecordEntry]]:
        return {
            key: [entry for entry in several if not entry.summary.function_only]
            for key, several in self._by_rig.items()
        }

    @functools.cached_property
    def _own(self) -> Mapping[tuple[str, str], Sequence[RecordEntry]]:
        return {
            key: [entry for entry in several if not entry.summary.endpoint]
            for key, several in self._with_figures.items()
        }

    @functools.cached_property
    def _usual(self) -> Mapping[tuple[str, str], Sequence[RecordEntry]]:
        return {
            key: [entry for entry in several if entry.summary.guest_kernel is None]
            for key, several in self._own.items()
        }

    def of_rig(
        self, rig: str, machine: str | None, *, any_kernel: bool = False
    ) -> Sequence[RecordEntry]:
        """Records of one rig on one machine, oldest first: without function-only ones, and without
        those of endpoints, whose figures are not the machine's. Those of guests with a kernel of
        choice only with `any_kernel`."""
        return (self._own if any_kernel else self._usual).get((rig, machine or ""), ())

    @functools.cached_property
    def endpoints(self) -> Mapping[str, Sequence[RecordEntry]]:
        """The records of each service under test by its identity, oldest first; the service that
        was measured last comes first."""
        found: dict[str, list[RecordEntry]] = {}
        for entry in reversed(self.entries):
            if entry.summary.endpoint:
                found.setdefault(entry.summary.endpoint.identity, []).append(entry)
        return {identity: several[::-1] for identity, several in found.items()}

    @functools.cached_property
    def _by_metric(self) -> Mapping[tuple[str, str, str], Mapping[SeriesKind, Sequence[SeriesAt]]]:
        found: dict[tuple[str, str, str], dict[SeriesKind, list[SeriesAt]]] = {}
        for (rig, machine), entries in self._with_figures.items():
            of_rig: dict[SeriesKind, list[SeriesAt]] = {}
            for at, entry in enumerate(entries):
                for series in entry.summary.series:
                    if entry.summary.proves(series):
                        continue
                    if series.kind in of_rig:
                        of_rig[series.kind].append((at, entry, series))
                    else:
                        of_rig[series.kind] = [(at, entry, series)]
            for kind, several in of_rig.items():
                found.setdefault((rig, machine, kind.metric), {})[kind] = several
        return found

    def series_of(
        self, rig: str, machine: str | None, metric: str
    ) -> Mapping[SeriesKind, Sequence[SeriesAt]]:
        """All series of a metric in a rig's records, grouped by kind, oldest first. Each endpoint's
        are of kinds of their own. Thousands of records have only a few kinds of series."""
        return self._by_metric.get((rig, machine or "", metric), {})

    def newest(
        self, rig: str, machine: str | None, metric: str, *, include_empty: bool = False,
        any_kernel: bool = False,
    ) -> Iterator[SeriesAt]:  # fmt: skip
        """The best series of each kind, by RecordSummary.rank and then the newest, without those of
        endpoints; `include_empty` admits series without a sample, `any_kernel` those of guests with
        a kernel of choice."""
        for kind, several in self.series_of(rig, machine, metric).items():
            usable = [one for one in several if one[2].n or include_empty]
            meant = any_kernel or GUEST_KERNEL not in kind.dimensions
            if usable and meant and not kind.endpoint:
                yield max(usable, key=lambda one: (one[1].summary.rank(one[2]), one[0]))

    @functools.cached_property
    def memo(self) -> dict[object, object]:
        """Cached results computed from this corpus."""
        return {}

    @functools.cached_property
    def function_only_records(self) -> Mapping[tuple[str, str], Sequence[RecordEntry]]:
        """The records with a series that proves function alone, by rig and machine, oldest first,
        without those of endpoints."""
        found = {
            key: [one for one in several if one.summary.proves_some and not one.summary.endpoint]
            for key, several in self._by_rig.items()
        }
        return {key: several for key, several in found.items() if several}


def places(results: Path) -> tuple[Sequence[Place], Sequence[Problem]]:
    """The place on the site of every record's file below `results`; and files without one."""
    found: list[Place] = []
    problems: list[Problem] = []
    taken: dict[str, str] = {}
    directories: dict[str, str] = {}
    for path in records.find(results):
        directory = path.parent.name
        shown = path.relative_to(results).as_posix()
        if directory not in directories:
            directories[directory] = slug(directory)
        stem = f"runs/{directories[directory]}/{slug(path.name.removesuffix('.run.json'))}"
        if stem in taken:
            problems.append(
                Problem(
                    shown, f"{shown}: its page would have the same address as that of {taken[stem]}"
                )
            )
            continue
        taken[stem] = shown
        found.append(Place(path, shown, stem))
    return found, problems


def read(place: Place) -> tuple[bytes, RunRecord] | Problem:
    """One record, or the problem that keeps it from being shown."""
    try:
        content = place.path.read_bytes()
        record_digests.check(place.path, content)
        return content, records.parse(content, place.shown)
    except (RecordError, OSError, RecursionError) as error:
        return Problem(place.shown, str(error))


def load(results: Path, published_directory: Path) -> Corpus:
    """Read everything below `results` without making pages.

    Raises PublishedError: without one of these files, pages would be misleading.
    """
    found, problems = places(results)
    entries, left_out = [], list(problems)
    for place in found:
        one = read(place)
        if isinstance(one, Problem):
            left_out.append(one)
        else:
            content, record = one
            digest = hashlib.sha256(content).hexdigest()
            entries.append(RecordEntry(summarise(record, digest), place))
    entries.sort(key=lambda entry: (entry.summary.run_id, entry.page))
    figures = load_published(published_directory)
    today = entries[-1].date if entries else "1970-01-01"
    marked = with_marks(entries, {}, {}, today)
    return Corpus(marked, tuple(left_out), figures, load_claims(figures), today=today,
                  matrices=load_matrices(published_directory, figures))  # fmt: skip


def with_marks(
    entries: Sequence[RecordEntry],
    rigs: Mapping[str, Sequence[str]],
    patches: Mapping[str, str],
    today: str,
) -> Sequence[RecordEntry]:
    """The entries, which are sorted oldest first, with what has changed since each."""
    summaries = [one.summary for one in entries]
    found = marks.of(summaries, rigs, patches, today)
    repeated = repeats.of(summaries, rigs)
    return tuple(_marked(*one) for one in zip(entries, found, repeated, strict=True))


def _marked(
    entry: RecordEntry, marks: Sequence[Mark], environment: Environment | None
) -> RecordEntry:
    made = dataclasses.replace(entry, marks=marks, environment=environment)
    if "record" in entry.__dict__:
        made.__dict__["record"] = entry.record
    return made


def entry_of(record: RunRecord, stem: str = "runs/a/b", path: Path = Path("none")) -> RecordEntry:
    """An entry for a record that is already in memory."""
    made = RecordEntry(summarise(record, "0" * 64), Place(path, path.name, stem))
    made.__dict__["record"] = record
    return made

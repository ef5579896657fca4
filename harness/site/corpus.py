"""What a build reads: every record, every published figure, and what could not be read."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.claims.published import Figure
from harness.claims.published import load as load_published
from harness.errors import RecordError
from harness.measure import record as records
from harness.measure.record import Facts, RunRecord, Scalar, Series


@dataclass(frozen=True)
class Entry:
    """One record, its file as it was read, and where the site shows it."""

    record: RunRecord
    content: bytes
    page: str
    raw: str

    @property
    def date(self) -> str:
        """The day of the run, UTC."""
        stamp = self.record.run_id
        return f"{stamp[:4]}-{stamp[4:6]}-{stamp[6:8]}"

    def find(self, metric: str, **dimensions: Scalar) -> Series | None:
        """The series of that metric whose dimensions include all those given."""
        for one in self.record.series:
            if one.metric == metric and all(
                name in one.dimensions and one.dimensions[name] == value
                for name, value in dimensions.items()
            ):
                return one
        return None


@dataclass(frozen=True)
class Problem:
    """A file that was left out, and the error that says why."""

    path: str
    error: str


@dataclass(frozen=True)
class Corpus:
    """Everything that pages are made of. `entries` are sorted oldest first."""

    entries: Sequence[Entry]
    problems: Sequence[Problem]
    published: Sequence[Figure]

    def figure(self, id: str) -> Figure | None:
        return next((one for one in self.published if one.id == id), None)

    @property
    def machine(self) -> str | None:
        """The machine that was measured last."""
        return self.entries[-1].record.machine.id if self.entries else None

    def of_rig(self, rig: str, machine: str | None) -> Iterator[Entry]:
        """Records of one rig on one machine, oldest first."""
        for entry in self.entries:
            if entry.record.rig.id == rig and entry.record.machine.id == machine:
                yield entry


def slug(text: str) -> str:
    """Text as it may stand in an address."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "x"


def own_dimensions(record: RunRecord, series: Series) -> Facts:
    """What tells a series from the others of its metric."""
    same = [one for one in record.series if one.metric == series.metric]
    return {
        name: value
        for name, value in sorted(series.dimensions.items())
        if any(one.dimensions.get(name) != value for one in same)
    }


def anchor(record: RunRecord, series: Series) -> str:
    """The place of a series on its run's page: its metric, and what tells it from the others."""
    own = own_dimensions(record, series).items()
    return slug(" ".join([series.metric, *(f"{name}-{value}" for name, value in own)]))


def load(results: Path, published_folder: Path) -> Corpus:
    """Read everything below `results`; a record that cannot be read becomes a Problem.

    Raises PublishedError: those files are ours, and a page that lost one would mislead.
    """
    entries: list[Entry] = []
    problems: list[Problem] = []
    taken: dict[str, str] = {}
    for path in records.find(results):
        shown = path.relative_to(results).as_posix()
        try:
            content = path.read_bytes()
            found = records.parse(content, shown)
        except (RecordError, OSError, RecursionError) as error:
            problems.append(Problem(shown, str(error)))
            continue
        folder = slug(path.parent.name)
        stem = slug(path.name.removesuffix(".run.json"))
        page = f"runs/{folder}/{stem}"
        if page in taken:
            problems.append(Problem(shown, f"{shown}: its page would be that of {taken[page]}"))
            continue
        taken[page] = shown
        entries.append(Entry(found, content, f"{page}.html", f"{page}.json"))
    entries.sort(key=lambda entry: (entry.record.run_id, entry.page))
    return Corpus(tuple(entries), tuple(problems), tuple(load_published(published_folder)))

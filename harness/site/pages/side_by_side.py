"""Machines side by side: for each rig, the same measurements with a column for each machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.site.data import figures, machines
from harness.site.data.addresses import slug
from harness.site.data.corpus import Corpus
from harness.site.data.files import as_csv
from harness.site.data.side_by_side import MOST, SeriesRow, Variant, tables
from harness.site.page import Asset, Document, Group, Item, Nav, Page

_FIGURES = 180
"""About how many figures a page has."""
COLUMNS = (
    "metric", "dimensions", "system", "machine", "day", "profile", "accelerator", "validity",
    "function_only", "n", "failed", "p50", "low", "high", "unit", "record",
)  # fmt: skip


@dataclass(frozen=True)
class Part:
    """One page of a rig's series. `path` has no suffix."""

    path: str
    rows: Sequence[SeriesRow]


def _parts(rig: str, rows: Sequence[SeriesRow]) -> Sequence[Part]:
    pages: list[list[SeriesRow]] = []
    room = 0
    for row in rows:
        if not pages or room < row.size:
            pages.append([])
            room = _FIGURES
        pages[-1].append(row)
        room -= row.size
    stem = f"side-by-side/{slug(rig)}"
    return [Part(f"{stem}{f'.{n}' if n > 1 else ''}", page) for n, page in enumerate(pages, 1)]


def _shown(corpus: Corpus, rows: Sequence[SeriesRow]) -> Sequence[str]:
    """The machines that have a column, those measured last first."""
    measured = {machine for row in rows for machine in row.found}
    return [machine for machine in corpus.machines if machine in measured][:MOST]


def _make(
    corpus: Corpus, rig: str, part: Part, parts: Sequence[Part], shown: Sequence[str]
) -> Iterator[Document | Asset]:
    yield Document(
        f"{part.path}.html",
        "side_by_side_rig.html",
        f"{rig}, machine by machine",
        f"The same measurements of {rig} on several machines.",
        {
            "rig": rig,
            "part": part,
            "parts": parts,
            "machines": {id: corpus.machines[id][-1].summary.machine for id in shown},
            "hidden": len({machine for row in part.rows for machine in row.found} - {*shown}),
        },
    )
    yield Asset(f"{part.path}.csv", as_csv(COLUMNS, [*_csv(part.rows)]))


def _csv(rows: Sequence[SeriesRow]) -> Iterator[Sequence[object]]:
    for row in rows:
        facts = ", ".join(f"{name}={value}" for name, value in row.dimensions.items())
        for machine, one in _each(row):
            entry, series, summary = one.entry, one.series, one.entry.summary
            hidden = figures.withheld(entry, series)
            median = None if hidden else figures.get(series, "p50")
            yield (
                row.metric, facts, one.system, machine, entry.date, summary.profile,
                summary.machine.accelerator, summary.validity.status,
                summary.proves(series) or None, series.n, series.failed,
                median and median.value, median and median.low, median and median.high,
                row.unit, entry.raw,
            )  # fmt: skip


def _each(row: SeriesRow) -> Iterator[tuple[str, Variant]]:
    for machine, several in row.found.items():
        for one in several:
            yield machine, one


def _inputs(corpus: Corpus, part: Part, parts: Sequence[Part], shown: Sequence[str]) -> list[str]:
    return [
        *(one.path for one in parts),
        *(f"{id} {machines.title(corpus.machines[id][-1].summary.machine)}" for id in shown),
        *(
            f"{machine} {one.entry.summary.sha256} {one.series.anchor}"
            for row in part.rows
            for machine, one in _each(row)
        ),
    ]


def _render(corpus: Corpus) -> Iterator[Item]:
    listed = {}
    for rig, rows in tables(corpus).items():
        shown = _shown(corpus, rows)
        parts = _parts(rig, rows)
        listed[rig] = (f"{parts[0].path}.html", len(rows), shown)
        for part in parts:

            def make(
                rig: str = rig,
                part: Part = part,
                parts: Sequence[Part] = parts,
                shown: Sequence[str] = shown,
            ) -> Iterator[Document | Asset]:
                return _make(corpus, rig, part, parts, shown)

            yield Group(part.path, _inputs(corpus, part, parts, shown), make)
    yield Document(
        "side-by-side.html",
        "side_by_side.html",
        "Machines side by side",
        "The same measurements on several machines, rig by rig.",
        {
            "rigs": listed,
            "machine_of": lambda id: corpus.machines[id][-1].summary.machine,
            "several": len(corpus.machines) > 1,
        },
    )


PAGE = Page(_render, Nav("Machines side by side", "side-by-side.html", 56, foot=True))

"""Exhibits: published figures side by side that show what a figure depends on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.claims.published import Figure
from harness.site.data.corpus import Corpus


@dataclass(frozen=True)
class ExhibitRow:
    """One clock, and what it showed; `figures` are a value or the ends of a range."""

    stops: str
    figures: Sequence[Figure]


@dataclass(frozen=True)
class ExhibitTable:
    """Figures of one setting, by clock."""

    caption: str
    rows: Sequence[ExhibitRow]


_CLOCKS = (
    (
        "The same ten sandboxes, one run, three clocks (median)",
        (
            ("the API has responded", ("cubesandbox.lab.api-p50",)),
            ("the sandbox is reported ready", ("cubesandbox.lab.ready-p50",)),
            ("the first command has run", ("cubesandbox.lab.usable-p50",)),
        ),
    ),
    (
        "Two clusters of the same project, six days apart (median)",
        (
            (
                "the API has responded: while sandboxes come and go, and 80 at once",
                ("cubesandbox.load.churn-p50", "cubesandbox.load.burst-p50"),
            ),
            (
                "the first command has run: 8 at once, with two schedulers",
                ("cubesandbox.lab.burst-usable-spread-p50", "cubesandbox.lab.burst-usable-p50"),
            ),
        ),
    ),
)


def clock_decides(corpus: Corpus) -> Sequence[ExhibitTable]:
    """CubeSandbox's start by the clock of its API and by that of a user; rows without figures are
    left out."""
    tables = []
    for caption, rows in _CLOCKS:
        shown = [
            ExhibitRow(stops, [one for id in ids if (one := corpus.figure(id))])
            for stops, ids in rows
        ]
        if kept := [row for row in shown if row.figures]:
            tables.append(ExhibitTable(caption, kept))
    return tables

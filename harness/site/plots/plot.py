"""A chart with a name, and its caption with the sources of its figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from harness.site.charts import remarks
from harness.site.charts.chart import ChartRow, Picture, drawn
from harness.site.data import figures
from harness.site.data.corpus import Corpus, RecordEntry
from harness.site.data.publishers import within
from harness.site.plots.style import Metadata

WIDTH = 3.5
"""Inches: a column of a two-column paper."""


@dataclass(frozen=True)
class Plot:
    """`rows` are the series and published figures that the picture shows."""

    name: str
    picture: Picture
    rows: Sequence[ChartRow] = ()

    @property
    def title(self) -> str:
        return self.picture.title


@dataclass(frozen=True)
class Family:
    """Charts of a kind. `many`: lists show only the number of charts, not each.

    In a family of many, the names of all charts begin with `prefix`.
    """

    help: str
    plots: Callable[[Corpus], Iterable[Plot]]
    many: bool = False
    prefix: str = ""


def caption(plot: Plot, key: str) -> Sequence[str]:
    """The lines of the chart's caption: what it shows, and the runs that it is based on.

    `key` explains how to read the picture.
    """
    lines = [f"{plot.title}.", key, *remarks.of(drawn(plot.rows))]
    ours = [row for row in plot.rows if row.entry and row.series]
    entries = list({row.entry.page: row.entry for row in ours if row.entry}.values())
    for machine in dict.fromkeys(entry.summary.machine.id for entry in entries):
        lines += _of_machine([entry for entry in entries if entry.summary.machine.id == machine])
    lines += map(_of_row, ours)
    theirs = {row.published.id: row.published for row in plot.rows if row.published}
    lines += [
        f"Published by {within(figure.publisher)}, on other machines and with other clocks: "
        f"{figure.what}: {figure.marked} ({figure.source})"
        for figure in theirs.values()
    ]
    return [line for line in lines if line]


def _of_machine(entries: Sequence[RecordEntry]) -> Iterator[str]:
    newest = entries[-1].summary.machine
    accelerators = sorted({entry.summary.machine.accelerator or "none" for entry in entries})
    days = sorted({entry.date for entry in entries})
    kernels = dict.fromkeys(entry.summary.machine.kernel for entry in entries)
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    yield (
        f"Measured on {newest.name} ({newest.id}; {newest.os}, {', '.join(kernels)}), {when}; "
        f"accelerator of the guests: {', '.join(accelerators)}."
    )


def _of_row(row: ChartRow) -> str:
    assert row.entry and row.series
    summary = row.entry.summary
    n, failed = figures.size(row.series)
    facts = [f"n = {n}", f"{failed} failed" if failed else "", row.entry.date]
    facts += [f"run {summary.run_id}", "" if summary.profile == "full" else summary.profile]
    facts += ["" if summary.validity.status == "valid" else summary.validity.status]
    return f"{row.label}: {', '.join(filter(None, facts))}"


def metadata(plot: Plot, lines: Sequence[str]) -> Metadata:
    """The file's metadata, without the time of drawing: equal records give equal bytes."""
    runs = dict.fromkeys(row.entry.summary.run_id for row in plot.rows if row.entry)
    return Metadata(plot.title, "\n".join(lines), tuple(runs))

"""A chart with a name, and the caption that says where its figures come from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from harness.site.charts.chart import ChartRow, Picture
from harness.site.data import figures
from harness.site.data.corpus import Corpus, RecordEntry
from harness.site.plots.style import Metadata

WIDTH = 3.5
"""Inches: one column of a paper that has two."""


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
    """Charts of one kind. `many`: a list shows how many there are, not each.

    `prefix` begins the names of all charts of a family of many.
    """

    help: str
    plots: Callable[[Corpus], Iterable[Plot]]
    many: bool = False
    prefix: str = ""


def caption(plot: Plot, key: str) -> Sequence[str]:
    """What stands below the chart in a paper, in lines: what is drawn, and of which runs.

    `key` says how the picture is read.
    """
    lines = [f"{plot.title}.", key]
    ours = [row for row in plot.rows if row.entry and row.series]
    entries = list({row.entry.page: row.entry for row in ours if row.entry}.values())
    for machine in dict.fromkeys(one.summary.machine.id for one in entries):
        lines += _of_machine([one for one in entries if one.summary.machine.id == machine])
    lines += map(_of_row, ours)
    theirs = {row.published.id: row.published for row in plot.rows if row.published}
    lines += [
        f"Published by {one.publisher}, on other machines and under other clocks: {one.what}: "
        f"{one.as_written} ({one.source})"
        for one in theirs.values()
    ]
    return [line for line in lines if line]


def _of_machine(entries: Sequence[RecordEntry]) -> Iterator[str]:
    newest = entries[-1].summary.machine
    accelerators = sorted({one.summary.machine.accelerator or "none" for one in entries})
    days = sorted({one.date for one in entries})
    kernels = dict.fromkeys(one.summary.machine.kernel for one in entries)
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
    return f"{row.label}: {', '.join(one for one in facts if one)}"


def metadata(plot: Plot, lines: Sequence[str]) -> Metadata:
    """The same for the file itself. Nothing of when it was drawn: equal records, equal bytes."""
    runs = dict.fromkeys(row.entry.summary.run_id for row in plot.rows if row.entry)
    return Metadata(plot.title, "\n".join(lines), tuple(runs))

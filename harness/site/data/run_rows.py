"""The series of one run as its page shows them: a row of its table each, and a section.

Of thousands of pages these are the bulk, so their cells are made here, not by a template.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from harness.measure.record import Scalar, Series
from harness.site.data import figures
from harness.site.data.corpus import Entry
from harness.site.data.record_summary import PERCENTILES, Line, own_dimensions

_COLUMNS = (*PERCENTILES, "min", "max")
_WITH_INTERVAL = ("p50", "p95")


@dataclass(frozen=True)
class Row:
    """A series and what its page says of it. `page` is where its charts are, if it has any.

    `own` has what tells it from the others of its metric, `stop` where its clock stops.
    """

    number: int
    series: Series
    line: Line
    own: str
    stop: str
    cells: Markup
    page: str

    @property
    def anchor(self) -> str:
        return self.line.anchor

    @property
    def chips(self) -> Markup:
        """Its dimensions, each on a chip."""
        return Markup("".join(_chip(*one) for one in self.series.dimensions.items()))

    @property
    def reasons(self) -> Mapping[str, str]:
        return reasons(self.series)


@functools.lru_cache(maxsize=4096, typed=True)
def _chip(name: str, value: Scalar) -> str:
    return f'<span class="chip">{escape(name)} {escape(figures.fact(value))}</span>'


def columns(entry: Entry) -> Sequence[str]:
    """The statistics that the table of a run has columns for: those that one of its series has."""
    shown = [one.statistics for one in entry.brief.lines if not figures.withheld(entry, one)]
    return ["p50", *(name for name in _COLUMNS[1:] if any(name in known for known in shown))]


def rows(entry: Entry, pages: Mapping[int, str]) -> Sequence[Row]:
    """Every series of a record, in its order. `pages` has by number where its charts are."""
    record, wanted = entry.record, columns(entry)
    stops = record.clock.stop
    return [
        Row(
            number,
            series,
            line,
            ", ".join(map(str, own.values())),
            stops.get(series.metric, ""),
            _withheld(entry, line, len(wanted))
            if figures.withheld(entry, line)
            else Markup("".join([_cell(line, name) for name in wanted])),
            pages.get(number, ""),
        )
        for number, (series, line, own) in enumerate(
            zip(record.series, entry.brief.lines, own_dimensions(record), strict=True)
        )
    ]


def _withheld(entry: Entry, line: Line, width: int) -> Markup:
    return Markup('<td colspan="{}" id="{}.p50">{}</td>').format(
        width, line.anchor, figures.proved(entry, line)
    )


def _cell(line: Line, name: str) -> str:
    if name not in line.statistics:
        return "<td></td>"
    figure = figures.bare(line, name, interval=name in _WITH_INTERVAL)
    return f'<td class="n" id="{line.anchor}.{name}">{figure}</td>'


def reasons(series: Series) -> dict[str, str]:
    """Every reason for failure, with the attempts that it ended, counted from 1: 3, 7–9."""
    by_reason: dict[str, list[int]] = {}
    for failure in series.failures:
        by_reason.setdefault(failure.reason, []).append(failure.index + 1)
    return {reason: _ranges(sorted(set(found))) for reason, found in by_reason.items()}


def _ranges(numbers: Sequence[int]) -> str:
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    shown = [f"{low}" if low == high else f"{low}–{high}" for low, high in runs]
    return ", ".join([*shown[:40], "…"] if len(shown) > 40 else shown)

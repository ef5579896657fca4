"""The series of one run as its page shows them: a table row and a section each.

These are the bulk of thousands of pages, so their cells are made here and not by a template.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from harness.measure.record import Facts, RunRecord, Scalar, Series
from harness.site.data import figures
from harness.site.data.corpus import RecordEntry
from harness.site.data.estimates import PERCENTILES
from harness.site.data.record_summary import SeriesSummary

FAILED = {
    "refused": "refused",
    "lost": "lost",
    "missing": "missing",
    "differs": "different",
    "not-offered": "not offered",
}
"""The kinds of failures as pages name them; a plain failure has none."""
_COLUMNS = (*PERCENTILES, "min", "max")
_WITH_INTERVAL = ("p50", "p95")


@dataclass(frozen=True)
class SeriesRow:
    """A series and how its page shows it. `page` is the page with its charts, if it has any.

    `own` has the dimensions that distinguish it, `stop` the event at which its clock stops,
    `notes` what its figures must be read with.
    """

    number: int
    series: Series
    summary: SeriesSummary
    own: str
    notes: str
    stop: str
    cells: Markup
    page: str

    @property
    def anchor(self) -> str:
        return self.summary.anchor

    @property
    def chips(self) -> Markup:
        """Its dimensions, each as a chip."""
        return Markup("".join(_chip(*one) for one in self.series.dimensions.items()))

    @property
    def failed_kinds(self) -> str:
        """How many attempts failed in which way, where that is recorded: "3 refused, 1 lost"."""
        kinds = Counter(one.kind for one in self.series.failures if one.kind)
        plain = len(self.series.failures) - kinds.total()
        told = [f"{many} {FAILED[kind]}" for kind, many in kinds.items()]
        return ", ".join([*told, *([f"{plain} failed"] if kinds and plain else [])])

    @property
    def reasons(self) -> Mapping[str, str]:
        return reasons(self.series)


@functools.lru_cache(maxsize=4096, typed=True)
def _chip(name: str, value: Scalar) -> str:
    return f'<span class="chip">{escape(name)} {escape(figures.fact(value))}</span>'


def columns(entry: RecordEntry) -> Sequence[str]:
    """The columns of a run's table: every statistic that at least one of its series has."""
    shown = [one.statistics for one in entry.summary.series if not figures.withheld(entry, one)]
    return ["p50", *(name for name in _COLUMNS[1:] if any(name in known for known in shown))]


def own_dimensions(record: RunRecord) -> Sequence[Facts]:
    """For each series, the dimensions in which it differs from others of its metric."""
    found: dict[str, dict[str, set[Scalar]]] = {}
    for one in record.series:
        values = found.setdefault(one.metric, {})
        for name in one.dimensions:
            values.setdefault(name, set())
    for one in record.series:
        for name, seen in found[one.metric].items():
            seen.add(one.dimensions.get(name))
    return [
        {
            name: value
            for name, value in sorted(one.dimensions.items())
            if len(found[one.metric][name]) > 1
        }
        for one in record.series
    ]


def rows(entry: RecordEntry, pages: Mapping[int, str]) -> Sequence[SeriesRow]:
    """Every series of a record, in order. `pages` maps an index to the page with its charts."""
    record, wanted = entry.record, columns(entry)
    stops = record.clock.stop
    return [
        SeriesRow(
            number,
            series,
            summary,
            ", ".join(map(str, own.values())),
            ", ".join(_notes(entry, summary)),
            stops.get(series.metric, ""),
            _withheld(entry, summary, len(wanted))
            if figures.withheld(entry, summary)
            else Markup("".join([_cell(summary, name) for name in wanted])),
            pages.get(number, ""),
        )
        for number, (series, summary, own) in enumerate(
            zip(record.series, entry.summary.series, own_dimensions(record), strict=True)
        )
    ]


def _notes(entry: RecordEntry, summary: SeriesSummary) -> Sequence[str]:
    readings = summary.n > 1 and entry.summary.conditions(summary).readings
    return [*figures.notes(entry, summary), *(["repeated readings"] if readings else [])]


def _withheld(entry: RecordEntry, summary: SeriesSummary, width: int) -> Markup:
    return Markup('<td colspan="{}" id="{}.p50">{}</td>').format(
        width, summary.anchor, figures.proved(entry, summary)
    )


def _cell(summary: SeriesSummary, name: str) -> str:
    if name not in summary.statistics:
        return "<td></td>"
    figure = figures.bare(summary, name, interval=name in _WITH_INTERVAL)
    return f'<td class="n" id="{summary.anchor}.{name}">{figure}</td>'


def reasons(series: Series) -> dict[str, str]:
    """Every reason for failure, with the numbers of its attempts, from 1: 3, 7–9."""
    by_reason: dict[str, list[int]] = {}
    for failure in series.failures:
        kind = f"{FAILED[failure.kind]}: " if failure.kind else ""
        by_reason.setdefault(f"{kind}{failure.reason}", []).append(failure.index + 1)
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

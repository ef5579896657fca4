"""The list of runs, one page per run record, and the record itself beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.measure.record import RunRecord, Series
from harness.site import coldstart
from harness.site.chart_series import ecdf_chart, order_chart
from harness.site.corpus import Corpus, Entry, anchor
from harness.site.figures import PERCENTILES
from harness.site.page import Asset, Document, Nav, Page

_STATISTICS = ("min", *PERCENTILES, "max")


def headline(record: RunRecord) -> Series | None:
    """The series that stands for a run in a list."""
    for one in record.series:
        if one.metric == coldstart.HEADLINE:
            return one
    return record.series[0] if record.series else None


def _title(record: RunRecord) -> str:
    """The rig and what distinguishes this run: dimensions that all of its series share."""
    if not record.series:
        return record.rig.id
    shared = [
        f"{value}" if isinstance(value, str) else f"{name} {value}"
        for name, value in record.series[0].dimensions.items()
        if name != "accelerator"
        and value is not None
        and all(one.dimensions.get(name) == value for one in record.series)
    ]
    return ", ".join([record.rig.id, *shared])


def _reasons(series: Series) -> dict[str, str]:
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
    return ", ".join(f"{low}" if low == high else f"{low}–{high}" for low, high in runs)


def _run(entry: Entry) -> Document:
    record = entry.record
    charts = {}
    for one in record.series:
        name = anchor(record, one)
        if one.samples:
            charts[name] = (order_chart(f"{name}.order", one), ecdf_chart(f"{name}.ecdf", one))
    facts = sorted({*record.machine.before, *record.machine.after})
    return Document(
        entry.page,
        "run.html",
        _title(record),
        f"Run record {record.run_id}: provenance and every sample.",
        {
            "entry": entry,
            "record": record,
            "charts": charts,
            "facts": facts,
            "reasons": _reasons,
            "statistics": _STATISTICS,
        },
    )


def _render(corpus: Corpus) -> Iterator[Document | Asset]:
    machines: dict[str, list[Entry]] = {}
    for entry in reversed(corpus.entries):
        machines.setdefault(entry.record.machine.id, []).append(entry)
    yield Document(
        "runs.html",
        "runs.html",
        "Runs",
        "Every run record, by machine, newest first.",
        {"machines": machines, "headline": headline, "title_of": _title},
    )
    for entry in corpus.entries:
        yield _run(entry)
        yield Asset(entry.raw, entry.content)


PAGE = Page(_render, Nav("Runs", "runs.html", 20))

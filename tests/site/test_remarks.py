"""A chart says under what conditions its rows were measured, and that their days differ."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

from harness.measure.record import RunRecord
from harness.site.charts import cold_start_charts, remarks
from harness.site.charts.chart import Chart, ChartRow, drawn
from harness.site.charts.remarks import DIFFERENT_DAYS
from harness.site.data import cold_start, figures
from harness.site.data.corpus import Corpus, RecordEntry, entry_of
from tests.site import factory

POOLED, FULL = "durable-prewarm-pool", "full"


def entries(*records: RunRecord) -> Sequence[RecordEntry]:
    return [entry_of(one, f"runs/a/{number}") for number, one in enumerate(records)]


def rows(*records: RunRecord) -> Sequence[ChartRow]:
    return [
        ChartRow(f"{one.dimensions['tier']}, {one.metric}", entry, one)
        for entry in entries(*records)
        for one in entry.record.series
    ]


def test_rows_of_one_day_and_without_guests_need_no_remark() -> None:
    noop = factory.cold_start(POOLED, substrate="noop")
    assert remarks.of(drawn(rows(noop))) == []


def test_emulation_and_rehearsal_name_their_rows() -> None:
    noop = factory.cold_start("prewarm-pool", substrate="noop")
    found = remarks.of(drawn(rows(factory.cold_start(POOLED), factory.cold_start(FULL), noop)))
    assert found == [
        f"Emulated: {POOLED}, {FULL}.",
        f"Rehearsed: {POOLED} (first-exec, first-touch).",
        f"Not rehearsed: {FULL} (first-exec, first-touch).",
    ]
    both = factory.cold_start(POOLED), factory.cold_start("prewarm-pool")
    assert remarks.of(drawn(rows(*both)))[:2] == [
        "Emulated: all.",
        f"Rehearsed: first-exec, first-touch of {POOLED}, prewarm-pool.",
    ]


def test_rows_of_different_days_say_so() -> None:
    found = remarks.of(
        drawn(rows(factory.cold_start(POOLED, day=1), factory.cold_start(FULL, day=3)))
    )
    assert found[-1] == f"{DIFFERENT_DAYS} 2026-11-01: {POOLED}. 2026-11-03: {FULL}."


def _chart(*records: RunRecord) -> Chart:
    corpus = Corpus(entries(*records), (), (), today="2026-11-30")
    return cold_start_charts.tiers_chart(corpus, cold_start.rows(corpus))


def test_the_drawing_and_its_files_say_it_too() -> None:
    apart = _chart(factory.cold_start(POOLED, day=1), factory.cold_start(FULL, day=3))
    for day in ("2026-11-01", "2026-11-03"):
        assert f">emulated, one run, {day}</text>" in apart.drawing
    svg, _, data = (asset.content for asset in apart.assets())
    assert DIFFERENT_DAYS in bytes(svg).decode() and b"2026-11-03: qemu full." in bytes(svg)
    row = next(one for one in json.loads(data)["rows"] if one["what"] == "qemu full")
    assert (row["day"], row["accelerator"], row["reach"]) == ("2026-11-03", "tcg", "any host")
    together = _chart(factory.cold_start(POOLED), factory.cold_start(FULL))
    assert ">emulated, one run</text>" in together.drawing and DIFFERENT_DAYS not in str(
        together.remarks
    )


def test_lines_under_a_name_fit_on_a_phone() -> None:
    forked = factory.cold_start(POOLED)
    series = [
        dataclasses.replace(one, dimensions={**one.dimensions, "vmm": "forked"})
        for one in forked.series
    ]
    (entry,) = entries(dataclasses.replace(forked, series=series))
    executed = next(one for one in entry.record.series if one.metric == "first-exec")
    lines = remarks.under(entry, executed, dated=True)
    assert all(len(line) <= remarks.WIDTH for line in lines)
    assert " ".join(lines) == ", ".join([*figures.notes(entry, executed), "one run", entry.date])

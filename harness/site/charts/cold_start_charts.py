"""The cold-start charts, for the pages that show them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from harness.claims.beside import Placement
from harness.measure.record import Series
from harness.site.charts.chart import Chart, ChartRow, with_conditions
from harness.site.charts.clock import ClockSpan, ClocksPicture
from harness.site.charts.rungs import RungsPicture, Wire
from harness.site.charts.strip import ReferenceLine, Strip, StripPicture
from harness.site.data import cold_start, figures
from harness.site.data.cold_start import ColdStartRow
from harness.site.data.corpus import Corpus, RecordEntry
from harness.site.data.figures import AnySeries

Found = tuple[RecordEntry, Series]
LINE = "cold-start"
"""The chart's name in beside.yaml, for the figure across it."""


def standing(
    corpus: Corpus, rows: Sequence[ColdStartRow]
) -> tuple[Mapping[int, Sequence[Placement]], Sequence[Placement]]:
    """The published figures beside each row, by its index, and those that have no row here."""
    sandboxes = [at for at, row in enumerate(rows) if not (row.is_control or row.kernel)]
    found: dict[int, list[Placement]] = {}
    alone = []
    for one in corpus.beside.of(cold_start.RIG, cold_start.HEADLINE, {"concurrency": 1}):
        fitting = [at for at in sandboxes if one.fits(rows[at].dimensions)]
        # A row that states each dimension of the figure is nearer than one that leaves it open.
        fitting.sort(key=lambda at: len(one.where.keys() - rows[at].dimensions.keys()))
        if fitting:
            found.setdefault(fitting[0], []).append(one)
        else:
            alone.append(one)
    return found, alone


def name(row: ColdStartRow) -> str:
    """A row's label; `noop` is the harness alone, without a sandbox."""
    if row.substrate == cold_start.NOOP:
        return "noop: the harness alone"
    return f"{row.substrate} {row.tier}{f', {row.kernel}' if row.kernel else ''}"


def note(found: tuple[RecordEntry, AnySeries] | None) -> str:
    """What a reader must know about a row besides its median."""
    if found is None:
        return "not measured on this host"
    entry, series = found
    notes = [entry.status_note] if entry.status_note else []
    if entry.summary.profile != "full":
        notes.append(f"{entry.summary.profile} profile")
    samples, failed = figures.size(series)
    if failed:
        notes.append(f"{failed} failed")
    if not samples:
        notes.append("no sample")
    return ", ".join(notes)


def tiers_chart(
    corpus: Corpus, rows: Sequence[ColdStartRow], at: str = "charts/cold-start"
) -> Chart:
    """Every sample up to the first reply in every tier, with published figures."""
    strips: list[Strip] = []
    table: list[ChartRow] = []
    beside, alone = standing(corpus, rows)

    def add(label: str, strip: Strip, found: Found | None, others: Sequence[Placement]) -> None:
        published = [(one.figure.publisher, one.figure) for one in others]
        strips.append(dataclasses.replace(strip, published=published))
        table.append(ChartRow(label, *(found or (None, None))))
        table.extend(ChartRow(f"{who}: {one.what}", published=one) for who, one in published)

    for number, row in enumerate(rows):
        found = row.series(cold_start.HEADLINE, 1)
        strip = Strip(
            name(row),
            found[1] if found else None,
            note(found),
            warn=found is not None and bool(found[0].status_note),
            muted=row.is_control,
        )
        add(name(row), strip, found, beside.get(number, ()))
    for one in alone:
        label = "-".join(str(one.where[key]) for key in ("tier", "vmm") if key in one.where)
        add(label, Strip(label, None, note(None)), None, [one])
    claim = corpus.beside.lines.get(LINE)
    line = None
    if claim:
        line = ReferenceLine(claim, f"CubeSandbox: {claim.marked}", "advertised; other clock")
        table.append(ChartRow(f"CubeSandbox: {claim.what}", published=claim))
    title = "Cold start to the first reply, one at a time"
    strips = with_conditions(strips, table)
    return Chart(at, title, StripPicture("cold-start", title, strips, line), table)


def ladder_chart(rows: Sequence[ColdStartRow]) -> Chart:
    """The rungs of each tier in one chart."""
    wires, table = [], []
    for row in rows:
        rungs = {}
        found = row.series(cold_start.HEADLINE, 1)
        for rung in cold_start.RUNGS:
            series = row.series(rung, 1)
            median = figures.get(series[1], "p50") if series else None
            if series and median:
                rungs[rung] = median
                table.append(ChartRow(f"{name(row)}, {rung}", *series))
        wires.append(Wire(name(row), rungs, found[0].status_note if found else ""))
    title = "The rungs of a cold start, by tier"
    return Chart(
        "charts/ladder", title, RungsPicture("rungs", title, cold_start.RUNGS, wires), table
    )


def clock_picture(id: str = "clock-drawing") -> ClocksPicture:
    """Our clock beside the two it is compared with."""
    return ClocksPicture(
        id,
        [
            ClockSpan("ours", "stops at the guest's answer", "first-reply"),
            ClockSpan("CubeSandbox", "stops at API response", "resumed", False, False),
            ClockSpan("original Coppice (FreeBSD)", "stop not stated", None, False, False),
        ],
    )

"""The cold-start charts, for the pages that show them."""

from __future__ import annotations

from collections.abc import Sequence

from harness.claims.published import Figure
from harness.site.charts.chart import Chart, ChartRow, with_conditions
from harness.site.charts.clock import ClockSpan, ClocksPicture
from harness.site.charts.rungs import RungsPicture, Wire
from harness.site.charts.strip import ReferenceLine, Strip, StripPicture
from harness.site.data import cold_start, figures
from harness.site.data.cold_start import ColdStartRow
from harness.site.data.corpus import Corpus, RecordEntry
from harness.site.data.figures import AnySeries
from harness.site.data.publishers import ORIGINAL

CLAIM = "cubesandbox.readme.cc1"


def original(corpus: Corpus, tier: str) -> Sequence[Figure]:
    """The means that the original Coppice published for a tier, one start at a time."""
    return [
        one
        for one in corpus.published
        if one.publisher == ORIGINAL
        and one.dimensions.get("tier") == tier
        and one.dimensions.get("concurrency") == 1
        and one.statistic == "mean"
    ]


def name(row: ColdStartRow) -> str:
    """A row's label; `noop` is the harness alone, without a sandbox."""
    noop = row.substrate == cold_start.NOOP
    return "noop: the harness alone" if noop else f"{row.substrate} {row.tier}"


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
    strips, table = [], []
    drawn: set[str] = set()
    for row in rows:
        noop = row.substrate == cold_start.NOOP
        found = row.series(cold_start.HEADLINE, 1)
        others = [] if noop or row.tier in drawn else original(corpus, row.tier)
        drawn.add(row.tier)
        strips.append(
            Strip(
                name(row),
                found[1] if found else None,
                note(found),
                warn=found is not None and bool(found[0].status_note),
                muted=noop,
                published=[(ORIGINAL, one) for one in others],
            )
        )
        table.append(ChartRow(name(row), *(found or (None, None))))
        table += [ChartRow(f"{ORIGINAL}: {one.what}", published=one) for one in others]
    claim = corpus.figure(CLAIM)
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

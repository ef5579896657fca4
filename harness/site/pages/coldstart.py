"""The cold-start page: the rungs of every tier, and many starts at once."""

from __future__ import annotations

from collections.abc import Iterator

from harness.site.charts import cold_start_charts
from harness.site.data import cold_start, ratios
from harness.site.data.corpus import Corpus
from harness.site.page import Document, Item, Nav, Page


def _render(corpus: Corpus) -> Iterator[Item]:
    rows = cold_start.rows(corpus)
    tiers = cold_start_charts.tiers_chart(corpus, rows, "charts/cold-start-tiers")
    ladder = cold_start_charts.ladder_chart(rows)
    yield from tiers.assets()
    yield from ladder.assets()
    yield Document(
        "cold-start.html",
        "coldstart.html",
        "Cold start",
        "Time from the request until a sandbox answers, runs a command and writes its memory.",
        {
            "rows": rows,
            "tiers": tiers,
            "ladder": ladder,
            "clock_drawing": cold_start_charts.clock_picture().svg(),
            "rungs": cold_start.RUNGS,
            "rehearsed": cold_start.REHEARSED,
            "programs": cold_start.programs(rows),
            "headline": cold_start.HEADLINE,
            "concurrencies": cold_start.CONCURRENCIES,
            "noop": cold_start.NOOP,
            "floor": cold_start.FLOOR,
            "above_floor": ratios.above_floor(corpus),
            "kernels": ratios.of_kernels(corpus),
            "claim": corpus.beside.lines.get(cold_start_charts.LINE),
        },
    )


PAGE = Page(_render, Nav("Cold start", "cold-start.html", 8))

"""The cold-start page: the ladder of every tier, and many at once."""

from __future__ import annotations

from collections.abc import Iterator

from harness.site import coldcharts, coldstart
from harness.site.corpus import Corpus
from harness.site.page import Document, Item, Nav, Page


def _render(corpus: Corpus) -> Iterator[Item]:
    rows = coldstart.rows(corpus)
    tiers = coldcharts.tiers_chart(corpus, rows, "charts/cold-start-tiers")
    ladder = coldcharts.ladder_chart(rows)
    yield from tiers.assets()
    yield from ladder.assets()
    yield Document(
        "cold-start.html",
        "coldstart.html",
        "Cold start",
        "From the request to a sandbox that answers, works and fills its memory.",
        {
            "rows": rows,
            "tiers": tiers,
            "ladder": ladder,
            "clock_drawing": coldcharts.clock_chart(),
            "rungs": coldstart.RUNGS,
            "headline": coldstart.HEADLINE,
            "concurrencies": coldstart.CONCURRENCIES,
            "noop": coldstart.NOOP,
            "claim": corpus.figure(coldcharts.CLAIM),
        },
    )


PAGE = Page(_render, Nav("Cold start", "cold-start.html", 8))

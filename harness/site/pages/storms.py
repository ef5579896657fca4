"""Storms: arrivals at a rate, the capacity, and the ladder of a creation over an API."""

from __future__ import annotations

from collections.abc import Iterator

from harness.site.charts import storm_charts
from harness.site.data import api_ladder, storms
from harness.site.data.corpus import Corpus
from harness.site.page import Document, Item, Nav, Page

_CHARTED = 4
"""The most sweeps whose curves are drawn; the table has all."""


def _render(corpus: Corpus) -> Iterator[Item]:
    subjects = storms.subjects(corpus)
    swept = [one for one in subjects if one.sweep]
    drawn = [
        (one, storm_charts.latency_chart(one), storm_charts.queue_chart(one))
        for one in swept[:_CHARTED]
    ]
    ladder, published = api_ladder.rows(corpus), corpus.beside.ladder
    rungs = storm_charts.ladder_chart(ladder, published)
    for _, *charts in drawn:
        for one in charts:
            yield from one.assets()
    yield from rungs.assets()
    yield Document(
        "storms.html",
        "storms.html",
        "Storms",
        "Sandboxes that arrive at a rate: latency from the intended start, queue and capacity.",
        {
            "swept": swept,
            "drawn": drawn,
            "stormed": [one for one in subjects if one.storms],
            "workloads": storms.WORKLOADS,
            "loaded": [one for one in subjects if any(map(one.storm, storms.WORKLOADS))],
            "reaches": storms.reaches(corpus),
            "published": corpus.beside.storms,
            "ladder": ladder,
            "rungs": api_ladder.RUNGS,
            "ladder_chart": rungs,
            "theirs": published,
        },
    )


PAGE = Page(_render, Nav("Storms", "storms.html", 9))

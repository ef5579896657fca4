"""The README's chart: `coppice chart cold-start` of the committed records."""

from __future__ import annotations

import html
import re
from pathlib import Path

from harness.measure.quantity import show
from harness.site.data import cold_start, corpus, figures

ROOT = Path(__file__).parents[2]


def test_the_readme_shows_what_the_records_give(kept: Path) -> None:
    """It was not forgotten after a measurement that was committed:
    coppice chart cold-start --width 9in --out site/cold-start.svg"""
    found = corpus.load(kept, kept / "published")
    drawn = html.unescape((ROOT / "site" / "cold-start.svg").read_text(encoding="utf-8"))
    words = set(re.findall(r">([^<>]+)</text>", drawn))
    rows = [
        (row, measured)
        for row in cold_start.rows(found)
        if (measured := row.series(cold_start.HEADLINE, 1)) and measured[1].samples
    ]
    assert rows
    for row, (entry, series) in rows:
        median = figures.get(series, "p50")
        assert median
        assert show(median, series.unit) in words, row
        assert entry.summary.run_id in drawn, row

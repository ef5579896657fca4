"""The README's chart: what the records give, and the same bytes every time."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.measure import record
from harness.site.charts import readme
from harness.site.data import cold_start, corpus
from tests.site import factory

ROOT = Path(__file__).parents[2]


def test_it_is_drawn_from_every_sample_and_always_alike(tmp_path: Path) -> None:
    for tier in ("full", "durable-pool"):
        record.write(factory.cold_start(tier), tmp_path / "results")
    found = corpus.load(tmp_path / "results", ROOT / "results" / "published")
    frame = readme.samples(list(cold_start.rows(found)))
    wanted = sum(
        len(series.samples)
        for entry in found.entries
        for series in entry.record.series
        if series.metric == "first-reply"
    )
    assert len(frame) == wanted > 0
    drawn = readme.draw(found)
    assert drawn == readme.draw(found)
    assert b"durable-pool" in drawn and b"Cold start to the first reply" in drawn


def test_without_a_sample_there_is_no_chart(tmp_path: Path) -> None:
    found = corpus.load(tmp_path, ROOT / "results" / "published")
    with pytest.raises(ValueError, match="no cold start"):
        readme.draw(found)


def test_the_readme_shows_what_the_records_give(kept: Path) -> None:
    """`coppice chart` was not forgotten after a measurement that was committed."""
    shown = ROOT / "site" / "cold-start.svg"
    found = corpus.load(kept, kept / "published")
    frame = readme.samples(list(cold_start.rows(found)))
    medians = frame.groupby("tier")["seconds"].quantile(0.5, interpolation="lower")
    text = shown.read_text()
    for tier, median in medians.items():
        assert f">{tier}<" in text and readme._duration(median, 3) in text, tier

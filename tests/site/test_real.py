"""The site of the committed records: made-up ones are never as many-sided as measured ones."""

from __future__ import annotations

from pathlib import Path

LIMIT = 150_000
"""Bytes of a page with its charts, which stand within it."""


def test_every_page_is_small(real: Path) -> None:
    sizes = {path: path.stat().st_size for path in real.rglob("*.html")}
    assert len(sizes) > 100
    assert {path: size for path, size in sizes.items() if size >= LIMIT} == {}
    # Only lists of everything, and the two pages with most charts and tables, are larger than what
    # loads at once on a telephone.
    large = {str(path.relative_to(real)) for path, size in sizes.items() if size >= 120_000}
    whole = {"published.html", "numbers.html", "numbers/compare.html", "numbers/density.html"}
    assert large <= {*whole, "network.html", "cold-start.html"}

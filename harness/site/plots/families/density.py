"""Density: the host's memory by the number of sandboxes."""

from __future__ import annotations

from collections.abc import Iterator

from harness.site.data import density
from harness.site.data.corpus import Corpus
from harness.site.pages.density import charts
from harness.site.plots.plot import Family, Plot


def _plots(corpus: Corpus) -> Iterator[Plot]:
    found = density.fleets(corpus)
    for name, chart in charts(corpus, found).items() if found else ():
        yield Plot(f"density-{name}", chart.picture, chart.rows)


FAMILY = Family("memory by number of sandboxes", _plots)

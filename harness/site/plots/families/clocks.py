"""Drawings of clocks: the ladder of a cold start, and where published clocks stop."""

from __future__ import annotations

from collections.abc import Iterator

from harness.site.charts import cold_start_charts
from harness.site.data.corpus import Corpus
from harness.site.pages import method
from harness.site.plots.plot import Family, Plot


def _plots(corpus: Corpus) -> Iterator[Plot]:
    yield Plot("clock-ladder", method.picture())
    yield Plot("clocks", cold_start_charts.clock_picture())


FAMILY = Family("drawings of the clock, without measurements", _plots)

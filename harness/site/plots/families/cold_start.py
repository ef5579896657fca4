"""Cold starts: every sample of every tier, and the rungs of each."""

from __future__ import annotations

from collections.abc import Iterator

from harness.site.charts import cold_start_charts
from harness.site.data import cold_start
from harness.site.data.corpus import Corpus
from harness.site.plots.plot import Family, Plot


def _plots(corpus: Corpus) -> Iterator[Plot]:
    rows = cold_start.rows(corpus)
    if any(row.entries for row in rows):
        for name, chart in (
            ("cold-start", cold_start_charts.tiers_chart(corpus, rows)),
            ("cold-start-rungs", cold_start_charts.ladder_chart(rows)),
        ):
            yield Plot(name, chart.picture, chart.rows)


FAMILY = Family("cold starts by tier, and their rungs", _plots)

"""A series of a run: its samples in order, and their distribution."""

from __future__ import annotations

from collections.abc import Iterator

from harness.site.charts.chart import ChartRow
from harness.site.data import figures
from harness.site.data.corpus import Corpus
from harness.site.plots.plot import Family, Plot
from harness.site.plots.series_picture import SeriesPicture

_PREFIX = "series/"


def _plots(corpus: Corpus) -> Iterator[Plot]:
    """A chart for each series, named by the run and the series' index, as on the run's page."""
    for entry in corpus.entries:
        for number, series in enumerate(entry.summary.series):
            if series.n and not figures.withheld(entry, series):
                title = f"{entry.summary.rig.id}: {series.name}"
                name = f"{_PREFIX}{entry.summary.run_id}/{number}"
                picture = SeriesPicture(title, entry, number)
                yield Plot(name, picture, [ChartRow(series.name, entry, series)])


FAMILY = Family("the samples of one series and their distribution", _plots, many=True,
                prefix=_PREFIX)  # fmt: skip

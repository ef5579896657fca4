"""One series of one run: its samples in order, and their distribution."""

from __future__ import annotations

from collections.abc import Iterator

from harness.site.charts.chart import ChartRow
from harness.site.data import figures
from harness.site.data.corpus import Corpus
from harness.site.plots.plot import Family, Plot
from harness.site.plots.series_picture import SeriesPicture

_PREFIX = "series/"


def _plots(corpus: Corpus) -> Iterator[Plot]:
    """Named by the run and by the series' place in its record, as its run's page has it."""
    for entry in corpus.entries:
        for number, one in enumerate(entry.summary.series):
            if one.n and not figures.withheld(entry, one):
                title = f"{entry.summary.rig.id}: {one.name}"
                name = f"{_PREFIX}{entry.summary.run_id}/{number}"
                picture = SeriesPicture(title, entry, number)
                yield Plot(name, picture, [ChartRow(one.name, entry, one)])


FAMILY = Family("the samples of one series and their distribution", _plots, many=True,
                prefix=_PREFIX)  # fmt: skip

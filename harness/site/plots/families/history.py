"""History: a series over its runs on one machine."""

from __future__ import annotations

from collections.abc import Iterator

from harness.site.data.corpus import Corpus
from harness.site.pages.history import chart_of, tracks
from harness.site.plots.plot import Family, Plot

_PREFIX = "history/"


def _plots(corpus: Corpus) -> Iterator[Plot]:
    for track in tracks(corpus, corpus.machine) if corpus.machine else ():
        chart = chart_of(track)
        # Without the machine, which is the same for all.
        yield Plot(f"{_PREFIX}{chart.name.rpartition('/')[2]}", chart.picture, chart.rows)


FAMILY = Family("a series over its runs", _plots, many=True, prefix=_PREFIX)

"""Claims: the samples that answer each, next to the claimed figure."""

from __future__ import annotations

from collections.abc import Iterator

from harness.site.data import evidence
from harness.site.data.corpus import Corpus
from harness.site.pages.claims import chart_of
from harness.site.plots.plot import Family, Plot

_PREFIX = "claim/"


def _plots(corpus: Corpus) -> Iterator[Plot]:
    for claim in corpus.claims:
        chart = chart_of(claim, evidence.judged(corpus, claim, corpus.machine))
        if chart:
            yield Plot(f"{_PREFIX}{claim.id}", chart.picture, chart.rows)


FAMILY = Family("the samples that answer a claim", _plots, many=True, prefix=_PREFIX)

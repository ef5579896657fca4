"""The network: round trips by path, and changes of policies."""

from __future__ import annotations

from collections.abc import Iterator

from harness.site.data.corpus import Corpus
from harness.site.pages.network import charts
from harness.site.plots.plot import Family, Plot

_NAMES = {"rtt": "network-ladder", "update": "policy-update", "churn": "policy-churn"}


def _plots(corpus: Corpus) -> Iterator[Plot]:
    for name, chart in charts(corpus).items():
        if chart:
            yield Plot(_NAMES[name], chart.picture, chart.rows)


FAMILY = Family("round trips, and policies by size", _plots)

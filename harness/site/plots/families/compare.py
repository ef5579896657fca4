"""The comparison: every kind of sandbox from the rig that visits them in turn."""

from __future__ import annotations

from collections.abc import Iterator

from harness.site.charts import cold_start_charts
from harness.site.charts.chart import ChartRow
from harness.site.charts.strip import Strip, StripPicture
from harness.site.data import compare
from harness.site.data.corpus import Corpus
from harness.site.plots.plot import Family, Plot

_TITLES = {
    "first-reply": "Cold start to the first reply, one at a time, each kind of sandbox in turn",
    "first-exec": "Cold start to a first process's output, one at a time, each kind in turn",
}


def _plots(corpus: Corpus) -> Iterator[Plot]:
    kinds = compare.compared(corpus)
    for rung, title in _TITLES.items():
        strips, rows = [], []
        for kind in kinds:
            found = kind.find(rung, concurrency=1)
            if not found:
                continue
            label = f"{kind.substrate} {kind.tier}"
            warn = found[0].summary.validity.status != "valid"
            note = cold_start_charts.note(found)
            strips.append(Strip(label, found[1], note, warn=warn, muted=kind.substrate == "noop"))
            rows.append(ChartRow(label, *found))
        if strips:
            yield Plot(f"compare-{rung}", StripPicture(rung, title, strips, None), rows)


FAMILY = Family("kinds of sandbox side by side", _plots)

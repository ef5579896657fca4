"""The picture that other sites show beside a link to this one: the cold-start chart, as a PNG."""

from __future__ import annotations

import io
from collections.abc import Iterator

from harness.site.charts import cold_start_charts
from harness.site.data import cold_start, machines
from harness.site.data.corpus import Corpus
from harness.site.page import Asset, Group

PATH = "preview.png"
WIDTH, HEIGHT = 1200, 630
"""In pixels: what the readers of Open Graph expect."""
_DPI = 150
_HEADING = "Do published sandbox claims hold? Cold starts, measured again"


def group(corpus: Corpus) -> Group:
    """The picture, drawn again only if a record of the chart has changed."""
    rows = cold_start.rows(corpus)
    entries = [entry for row in rows for entry in row.entries.values()]

    def make() -> Iterator[Asset]:
        yield Asset(PATH, _drawn(corpus))

    return Group(PATH, [one.summary.sha256 for one in entries], make)


def _drawn(corpus: Corpus) -> bytes:
    """Equal records give equal bytes."""
    # Not above: it takes as long as half a build, and most builds keep the picture they have.
    import matplotlib

    from harness.site.plots import drawing, style

    chart = cold_start_charts.tiers_chart(corpus, cold_start.rows(corpus))
    figure = drawing.draw(chart.picture, WIDTH / _DPI)
    room = HEIGHT / _DPI
    figure.set_size_inches(WIDTH / _DPI, room)
    for axes in figure.get_axes():
        left, bottom, width, height = axes.get_position().bounds
        axes.set_position((left, bottom, width, height * (1 - 0.5 / room)))
    out = io.BytesIO()
    with matplotlib.rc_context(style.SETTINGS):
        figure.text(0.008, 1 - 0.22 / room, _HEADING, fontsize=13, fontweight="bold")
        figure.text(0.008, 1 - 0.38 / room, _where(corpus), fontsize=7.5, color=style.SOFT)
        figure.savefig(out, format="png", dpi=_DPI, metadata={"Software": "Coppice"})
    return out.getvalue()


def _where(corpus: Corpus) -> str:
    """The machine, and how its guests ran."""
    ran = {
        machines.accelerator(entry.summary.machine.accelerator)
        for row in cold_start.rows(corpus)
        for entry in row.entries.values()
    } - {""}
    entries = corpus.machines[corpus.machine] if corpus.machine else ()
    names = [machines.title(entries[-1].summary.machine)] if entries else []
    return "; ".join([*names, *(f"microVMs {one}" for one in sorted(ran))])

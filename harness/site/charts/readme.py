"""The chart of the README: the newest cold starts of a machine, every sample, as one SVG file.

The pages draw their charts themselves, in the page's own colours; a README has no style sheet, so
this one is drawn by matplotlib on a ground of its own.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import matplotlib
import pandas
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.measure.statistics import summarise
from harness.site.data import cold_start
from harness.site.data.cold_start import Row
from harness.site.data.corpus import Corpus, Entry

GREEN, INK, GROUND, PALE = "#2e6b4f", "#1d2b26", "#ffffff", "#9db5aa"
SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "coppice",
    "font.family": "sans-serif",
}


def samples(rows: list[Row]) -> pandas.DataFrame:
    """One line per sample: tier, seconds; of the claimed rung, one at a time."""
    found = [
        {"tier": "noop" if row.substrate == cold_start.NOOP else row.tier, "seconds": seconds}
        for row in rows
        if (measured := row.series(cold_start.HEADLINE, 1))
        for seconds in measured[1].samples
    ]
    return pandas.DataFrame(found, columns=["tier", "seconds"])


def draw(corpus: Corpus) -> bytes:
    """The chart as SVG; equal records give equal bytes. ValueError when there is no sample."""
    frame = samples(list(cold_start.rows(corpus)))
    if frame.empty:
        raise ValueError("no cold start was measured at concurrency 1")
    tiers = list(frame["tier"].drop_duplicates())
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(9, 0.62 * len(tiers) + 1.2), facecolor=GROUND)
        axes = figure.add_subplot()
        for place, tier in enumerate(tiers):
            _row(axes, place, list(frame.loc[frame["tier"] == tier, "seconds"]), tier == "noop")
        axes.set_yticks(range(len(tiers)), tiers)
        axes.invert_yaxis()
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: _duration(value))
        axes.tick_params(colors=INK, length=0)
        axes.grid(axis="x", color="#e4ece8")
        axes.set_axisbelow(True)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.set_title(_title(corpus), loc="left", color=INK, fontsize=10)
        figure.tight_layout()
        out = io.BytesIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def _row(axes: Axes, place: int, values: list[float], muted: bool) -> None:
    colour = PALE if muted else GREEN
    # From top to bottom in the order of measurement, as on the pages.
    heights = [place - 0.28 + 0.56 * i / max(len(values) - 1, 1) for i in range(len(values))]
    axes.scatter(values, heights, s=7, color=colour, alpha=0.35, linewidths=0)
    median = summarise(values).median.value
    axes.plot([median, median], [place - 0.34, place + 0.34], color=INK, linewidth=1.6)
    axes.annotate(
        _duration(median, 3), (median, place - 0.34), (3, 1), textcoords="offset points",
        fontsize=8, color=INK, va="bottom",
    )  # fmt: skip


def _duration(seconds: float, digits: int = 6) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= size or unit == "µs":
            return f"{seconds / size:.{digits}g} {unit}"
    raise AssertionError


def _title(corpus: Corpus) -> str:
    newest = corpus.entries[-1].record
    ran = {e.record.machine.accelerator for e in _shown(corpus)} - {None}
    how = f"guests under {', '.join(sorted(map(str, ran)))}" if ran else "no guest"
    return f"Cold start to the first reply, one at a time. {newest.machine.name}; {how}"


def _shown(corpus: Corpus) -> Iterator[Entry]:
    for row in cold_start.rows(corpus):
        yield from row.entries.values()

"""History: the median of each run with its interval, oldest first."""

from __future__ import annotations

from matplotlib.figure import Figure

from harness.measure.comparison import Outcome
from harness.site.charts import axis
from harness.site.charts.history import HistoryPicture
from harness.site.plots import style
from harness.site.plots.style import SMALL

PICTURE = HistoryPicture
KEY = (
    "Points: the median of each run, with its 95 % interval; runs are equally spaced. "
    "Ringed: a run that is not valid. Triangles: a run that differs from the previous."
)
_LEFT, _RIGHT, _TOP, _BOTTOM = 42.0, 6.0, 5.0, 14.0


def draw(picture: HistoryPicture, width: float) -> Figure:
    runs = picture.runs
    points, plot = 72 * width, 72 * width * 0.45
    whole = _TOP + plot + _BOTTOM
    figure = style.blank(width, whole * style.POINT)
    axes = figure.add_axes(
        (_LEFT / points, _BOTTOM / whole, 1 - (_LEFT + _RIGHT) / points, plot / whole)
    )
    scale = axis.fitting(
        [
            part
            for run in runs
            for part in (run.value.low, run.value.value, run.value.high)
            if part is not None
        ],
        picture.unit,
    )
    style.upwards(axes, scale)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.set_xlim(-0.5, len(runs) - 0.5)
    axes.set_xticks([])
    axes.plot([run.value.value for run in runs], "-o", color=style.OURS, markersize=3.2, zorder=3)
    for number, run in enumerate(runs):
        value = run.value
        if value.low is not None and value.high is not None:
            axes.vlines(number, value.low, value.high, color=style.OURS, linewidth=2, alpha=0.4)
        if run.status != "valid":
            axes.plot(number, value.value, "o", markersize=7, markerfacecolor="none",
                      markeredgecolor=style.THEIRS, markeredgewidth=0.8, zorder=4)  # fmt: skip
        if run.change in (Outcome.BETTER, Outcome.WORSE):
            worse = run.change is Outcome.WORSE
            axes.annotate("▲" if worse else "▼", (number, value.value), (0, 7 if worse else -7),
                          textcoords="offset points", ha="center", va="center", fontsize=5,
                          color=style.ORANGE if worse else style.GREEN)  # fmt: skip
    ends = axes.get_xaxis_transform()
    axes.text(-0.5, -0.03, runs[0].day, transform=ends, va="top", fontsize=SMALL)
    if runs[-1].day != runs[0].day:
        axes.text(len(runs) - 0.5, -0.03, runs[-1].day, transform=ends, va="top", ha="right",
                  fontsize=SMALL)  # fmt: skip
    return figure

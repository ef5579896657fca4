"""A series: its samples in measurement order, and below them their distribution."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.measure.quantity import show
from harness.site.charts import axis
from harness.site.charts.axis import Axis
from harness.site.data import figures
from harness.site.plots import style
from harness.site.plots.series_picture import SeriesPicture, free_places
from harness.site.plots.style import GROUND, SMALL

PICTURE = SeriesPicture
KEY = (
    "Above: samples in measurement order, crosses are failed attempts. Below: the share "
    "of samples that do not exceed a value; solid line: median, dotted: 95th and 99th percentile."
)
_LEFT, _RIGHT, _TOP, _GAP, _BOTTOM = 42.0, 12.0, 5.0, 24.0, 14.0
_MANY = 3000
"""More samples than this are drawn as a bitmap within the file."""


def draw(picture: SeriesPicture, width: float) -> Figure:
    samples = picture.series.samples
    points, plot = 72 * width, 72 * width * 0.36
    whole = _TOP + 2 * plot + _GAP + _BOTTOM
    figure = style.blank(width, whole * style.POINT)
    scale = axis.fitting(samples, picture.series.unit)
    left, wide = _LEFT / points, 1 - (_LEFT + _RIGHT) / points
    _order(
        figure.add_axes((left, (_BOTTOM + plot + _GAP) / whole, wide, plot / whole)), picture, scale
    )
    _distribution(figure.add_axes((left, _BOTTOM / whole, wide, plot / whole)), picture, scale)
    return figure


def _order(axes: Axes, picture: SeriesPicture, scale: Axis) -> None:
    series = picture.series
    attempts, places = free_places(series)
    style.upwards(axes, scale)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.set_xlim(-0.5, attempts - 0.5)
    axes.set_xticks([])
    axes.plot(places, series.samples, ".", color=style.OURS, markersize=3, markeredgewidth=0,
              alpha=0.6, rasterized=len(places) > _MANY)  # fmt: skip
    failed = sorted({min(failure.index, attempts - 1) for failure in series.failures})
    axes.plot(failed, [scale.high] * len(failed), "x", color=style.THEIRS, markersize=4,
              markeredgewidth=0.9, clip_on=False, zorder=4)  # fmt: skip
    ends = axes.get_xaxis_transform()
    axes.text(-0.5, -0.04, "first attempt", transform=ends, va="top", fontsize=SMALL)
    axes.text(attempts - 0.5, -0.04, f"attempt {attempts}", transform=ends, va="top", ha="right",
              fontsize=SMALL)  # fmt: skip


def _distribution(axes: Axes, picture: SeriesPicture, scale: Axis) -> None:
    series = picture.series
    ordered = sorted(series.samples)
    style.across(axes, scale, inside=False)
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", color=style.GRID, linewidth=0.5)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    n = len(ordered)
    axes.step([ordered[0], *ordered], [0, *((rank + 1) / n for rank in range(n))], where="post",
              color=style.OURS)  # fmt: skip
    for name, dashes in (("p50", "-"), ("p95", (0, (2, 1.5))), ("p99", (0, (1, 1.5)))):
        figure = figures.get(series, name)
        if figure:
            axes.axvline(figure.value, color=style.INK, linewidth=0.7, linestyle=dashes)
            label = f"{'median' if name == 'p50' else name} {show(figure, series.unit)}"
            axes.annotate(label, (figure.value, 0.03), (2, 0), rotation=90,
                          textcoords="offset points", fontsize=5.5, color=style.SOFT,
                          bbox=dict(GROUND, pad=0.2))  # fmt: skip

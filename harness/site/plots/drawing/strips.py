"""Strips: a row per series with a dot per sample, on a logarithmic axis."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.measure.quantity import show
from harness.site.charts import axis, labels
from harness.site.charts.labels import Mark
from harness.site.charts.strip import (
    MOST,
    ReferenceLine,
    Strip,
    StripPicture,
    estimate_of,
    thinned,
    values_of,
)
from harness.site.data.publishers import short
from harness.site.plots import style
from harness.site.plots.style import GROUND, NORMAL, PIXEL, SMALL

PICTURE = StripPicture
KEY = (
    "Dots: samples, from top to bottom in measurement order (evenly chosen if there "
    f"are more than {MOST}); line: median, with its 95 % interval as a band; triangle: 95th "
    "percentile. Diamonds and the dashed line: published by others, with other clocks."
)
_HEAD, _LANE, _PUBLISHED, _GAP = 11.0, 15.0, 10.0, 7.0
_TOP_LINE, _BOTTOM = 20.0, 14.0


def _height(strip: Strip) -> float:
    published = any(figure.value is not None for _, figure in strip.published)
    return _HEAD + _LANE + (_PUBLISHED if published else 0) + _GAP


def draw(picture: StripPicture, width: float) -> Figure:
    scale = axis.decades(values_of(picture.strips, picture.line), picture.unit)
    line = picture.line if picture.line and picture.line.figure.value is not None else None
    height = sum(map(_height, picture.strips))
    top = _TOP_LINE if line else 2.0
    figure = style.blank(width, (top + height + _BOTTOM) * style.POINT)
    axes = style.lane_axes(figure, top, _BOTTOM, height)
    style.across(axes, scale)
    walls = [scale.place(line.figure.value)] if line and line.figure.value else []
    if line:
        _line(axes, line, walls[0], top)
    y = 0.0
    for strip in picture.strips:
        _strip(axes, strip, scale, y, picture.unit, walls)
        y += _height(strip)
    return figure


def _strip(
    axes: Axes, strip: Strip, scale: axis.Axis, top: float, unit: str, walls: Sequence[float]
) -> None:
    ends = axes.get_yaxis_transform()
    axes.text(0, top + _HEAD - 3, strip.label, transform=ends, fontsize=NORMAL, bbox=GROUND)
    median = estimate_of(strip, "p50")
    if not strip.series or not median:
        reason = strip.note or "not measured on this host"
        axes.text(1, top + _HEAD - 3, reason, transform=ends, ha="right", color=style.SOFT,
                  fontsize=SMALL, bbox=GROUND)  # fmt: skip
        return
    note = f"{strip.note}  " if strip.note else ""
    axes.text(1, top + _HEAD - 3, f"{note}{show(median, unit)}", transform=ends, ha="right",
              fontsize=NORMAL, bbox=GROUND)  # fmt: skip
    lane = top + _HEAD
    colour = style.MUTED if strip.muted else style.OURS
    samples = thinned(strip.series.samples, MOST)
    step = (_LANE - 4) / max(len(samples) - 1, 1)
    axes.scatter(
        [value / strip.by for value in samples],
        [lane + 2 + step * number for number in range(len(samples))],
        s=4, color=colour, alpha=0.35, linewidths=0, zorder=2,
    )  # fmt: skip
    if median.low is not None and median.high is not None:
        axes.fill_betweenx([lane, lane + _LANE], median.low, median.high, color=colour, alpha=0.25,
                           linewidth=0.4, zorder=2.5)  # fmt: skip
    axes.vlines(median.value, lane - 1, lane + _LANE + 1, color=style.INK, linewidth=1.2, zorder=3)
    tail = estimate_of(strip, "p95")
    if tail:
        axes.plot(tail.value, lane + _LANE + 1.5, "^", color=style.INK, markersize=3, zorder=3)
    _published(axes, strip, scale, lane + _LANE + _PUBLISHED / 2 + 2, walls)


def _published(
    axes: Axes, strip: Strip, scale: axis.Axis, y: float, walls: Sequence[float]
) -> None:
    known = [(f"{short(publisher)} {figure.marked}", figure.value)
             for publisher, figure in strip.published if figure.value is not None]  # fmt: skip
    marks = [Mark(scale.place(value), y / PIXEL, label) for label, value in known]
    wide = 72 * axes.figure.get_figure(root=True).get_figwidth()
    spots = labels.spots(marks, walls, below=False, sizes=style.sizes(wide))
    for (label, value), spot in zip(known, spots, strict=True):
        axes.plot(value, y, "D", color="white", markeredgecolor=style.THEIRS, markersize=3.5,
                  markeredgewidth=0.9, zorder=4)  # fmt: skip
        axes.annotate(
            label, (value, y), (spot.dx * PIXEL * 0.75, 0), textcoords="offset points",
            ha={"start": "left", "end": "right"}.get(spot.anchor, "center"), va="center",
            fontsize=SMALL, color=style.THEIRS,
            bbox=dict(GROUND, pad=0.3),
        )  # fmt: skip


def _line(axes: Axes, line: ReferenceLine, place: float, top: float) -> None:
    assert line.figure.value is not None
    axes.axvline(line.figure.value, ymax=1 + top / axes.get_ylim()[0], color=style.THEIRS,
                 linewidth=0.9, dashes=(4, 2), clip_on=False, zorder=1.5)  # fmt: skip
    side, shift = ("right", -3) if place > 0.5 else ("left", 3)
    for label, up, colour in ((line.text, 12, style.THEIRS), (line.aside, 4, style.SOFT)):
        axes.annotate(label, (line.figure.value, 0), (shift, up), textcoords="offset points",
                      ha=side, fontsize=SMALL, color=colour)  # fmt: skip

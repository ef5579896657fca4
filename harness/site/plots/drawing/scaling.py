"""Scaling: values by N, a curve per series, with logarithmic axes."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from harness.measure.quantity import show, thousands
from harness.site.charts import labels
from harness.site.charts.axis import Axis
from harness.site.charts.labels import Mark
from harness.site.charts.scaling import Curve, Naive, ScalingPicture
from harness.site.plots import style
from harness.site.plots.style import GROUND, PIXEL, SMALL

PICTURE = ScalingPicture
KEY = (
    "Points: medians, with their 95 % intervals; the key shows the value at the largest N. Open "
    "marks and dashed lines across: published by others, under other conditions."
)
_KEY_ROW, _BOTTOM, _LEFT, _RIGHT = 10.0, 25.0, 42.0, 10.0
_MARGIN = 0.03
_ABOVE = 14.0
"""Space between key and plot for the label of a mark at the top."""


def draw(picture: ScalingPicture, width: float) -> Figure:
    across, up = picture.axes
    top = _KEY_ROW * len(picture.curves) + (_ABOVE if picture.references else 6)
    plot = 72 * width * 0.62
    whole = top + plot + _BOTTOM
    figure = style.blank(width, whole * style.POINT)
    points = 72 * width
    axes = figure.add_axes(
        (_LEFT / points, _BOTTOM / whole, 1 - (_LEFT + _RIGHT) / points, plot / whole)
    )
    style.across(axes, across, inside=False, margin=_MARGIN)
    axes.set_xticklabels([thousands(tick.value) for tick in across.ticks])
    style.upwards(axes, up)
    axes.set_xlabel(picture.across, fontsize=SMALL, labelpad=2)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for number, curve in enumerate(picture.curves):
        _curve(axes, curve, number)
    if picture.naive:
        _naive(axes, picture.naive, across, up, points - _LEFT - _RIGHT)
    _references(axes, picture, across, up, (points - _LEFT - _RIGHT, plot))
    _key(figure, picture)
    return figure


def _curve(axes: Axes, curve: Curve, number: int) -> None:
    ordered = sorted(curve.points, key=lambda point: point.n)
    kind = number % len(style.HUES)
    axes.plot(
        [point.n for point in ordered], [point.value.value for point in ordered],
        color=style.HUES[kind], linestyle=style.DASHES[kind], marker=style.MARKERS[kind],
        markersize=3.6, zorder=3,
    )  # fmt: skip
    for point in ordered:
        low, high = point.value.low, point.value.high
        if low is not None and high is not None:
            axes.vlines(point.n, low, high, color=style.HUES[kind], linewidth=2, alpha=0.4,
                        zorder=2.5)  # fmt: skip


def _key(figure: Figure, picture: ScalingPicture) -> None:
    """Above the plot: each curve's name, and its value at the largest N at the right."""
    points, whole = (72 * inches for inches in figure.get_size_inches())
    for number, curve in enumerate(picture.curves):
        kind = number % len(style.HUES)
        y = 1 - (_KEY_ROW * (number + 0.5) + 1) / whole
        for ends, mark in (((4, 22), ""), ((13,), style.MARKERS[kind])):
            figure.add_artist(
                Line2D(
                    [end / points for end in ends], [y] * len(ends), color=style.HUES[kind],
                    linestyle=style.DASHES[kind], marker=mark, markersize=3.6,
                )
            )  # fmt: skip
        note = f" ({curve.note})" if curve.note else ""
        figure.text(27 / points, y, f"{curve.label}{note}", fontsize=SMALL, va="center")
        last = max(curve.points, key=lambda point: point.n, default=None)
        shown = "not measured"
        if last:
            shown = f"{show(last.value, picture.unit)} at {thousands(last.n)}"
        figure.text(1 - _RIGHT / points, y, shown, fontsize=SMALL, va="center", ha="right")


def _naive(axes: Axes, naive: Naive, across: Axis, up: Axis, wide: float) -> None:
    start = naive.start
    end = min(across.high, start.n * up.high / start.value.value)
    top = start.value.value * end / start.n
    axes.plot([start.n, end], [start.value.value, top], color=style.SOFT, linewidth=0.8,
              linestyle=(0, (1, 1.5)))  # fmt: skip
    room = across.place(end) * wide - 16 > len(naive.text) * style.LETTER
    left = axes.get_xlim()[0]
    axes.annotate(naive.text, (end if room else left, top), (-16 if room else 3, -2),
                  textcoords="offset points", ha="right" if room else "left", va="top",
                  fontsize=SMALL, color=style.SOFT)  # fmt: skip


def _references(
    axes: Axes, picture: ScalingPicture, across: Axis, up: Axis, size: tuple[float, float]
) -> None:
    """Published figures, with labels that overlap neither each other nor the curves' points."""
    wide, plot = size
    known = [(ref, ref.figure.value) for ref in picture.references if ref.figure.value is not None]
    here = [(ref, ref.n, value) for ref, value in known if ref.n is not None]

    def down(value: float) -> float:
        return plot * (1 - up.place(value)) / PIXEL

    def share(n: float) -> float:
        return (across.place(n) + _MARGIN) / (1 + 2 * _MARGIN)

    marks = [Mark(share(n), down(value), ref.text) for ref, n, value in here]
    points = [
        Mark(share(point.n), down(point.value.value))
        for curve in picture.curves
        for point in curve.points
    ]
    lines = [
        Mark(1 - step / 30, down(value) - 8)
        for ref, value in known
        if ref.n is None
        for step in range(16)
    ]
    key = [Mark(step / 30, -_ABOVE / PIXEL - 5) for step in range(31)]
    spots = labels.spots([*marks, *points, *lines, *key], sizes=style.sizes(wide))
    for (ref, n, value), spot in zip(here, spots, strict=False):
        axes.plot(n, value, "o" if ref.round else "D", markerfacecolor="none", markersize=4,
                  markeredgecolor=style.THEIRS, markeredgewidth=0.9, zorder=5,
                  clip_on=False)  # fmt: skip
        side = {"start": "left", "end": "right"}.get(spot.anchor, "center")
        axes.annotate(ref.text, (n, value), (spot.dx * PIXEL, -(spot.dy - 4) * PIXEL),
                      textcoords="offset points", ha=side, va="center", fontsize=SMALL,
                      color=style.THEIRS, zorder=4,
                      bbox=dict(GROUND, pad=0.2, alpha=0.8))  # fmt: skip
    for ref, value in known:
        if ref.n is None:
            axes.axhline(value, color=style.THEIRS, linewidth=0.9, dashes=(4, 2))
            axes.annotate(ref.text, (across.high, value), (-2, 3), textcoords="offset points",
                          ha="right", fontsize=SMALL, color=style.THEIRS)  # fmt: skip

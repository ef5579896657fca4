"""Scaling: how values grow with N, both axes logarithmic, a curve a series."""

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
    "Points: medians, with their 95 % intervals; the key has the value at the largest N. Open "
    "marks and dashed lines across: published by others, under other conditions."
)
_KEY_ROW, _BOTTOM, _LEFT, _RIGHT = 10.0, 25.0, 42.0, 10.0

_AIR = 0.03
_ABOVE = 14.0
"""Room between key and plot for the words of a mark at the top."""


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
    style.across(axes, across, inside=False, air=_AIR)
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
        [one.n for one in ordered], [one.value.value for one in ordered],
        color=style.HUES[kind], linestyle=style.DASHES[kind], marker=style.MARKERS[kind],
        markersize=3.6, zorder=3,
    )  # fmt: skip
    for one in ordered:
        if one.value.low is not None and one.value.high is not None:
            axes.vlines(one.n, one.value.low, one.value.high, color=style.HUES[kind], linewidth=2,
                        alpha=0.4, zorder=2.5)  # fmt: skip


def _key(figure: Figure, picture: ScalingPicture) -> None:
    """Above the plot: each curve's name, and at the right its value at the largest N."""
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
        words = "not measured"
        if last:
            words = f"{show(last.value, picture.unit)} at {thousands(last.n)}"
        figure.text(1 - _RIGHT / points, y, words, fontsize=SMALL, va="center", ha="right")


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
    """Others' figures, their words where they cover neither another's nor a point of a curve."""
    wide, plot = size
    known = [(one, one.figure.value) for one in picture.references if one.figure.value is not None]
    here = [(one, one.n, value) for one, value in known if one.n is not None]

    def down(value: float) -> float:
        return plot * (1 - up.place(value)) / PIXEL

    def share(n: float) -> float:
        return (across.place(n) + _AIR) / (1 + 2 * _AIR)

    marks = [Mark(share(n), down(value), one.text) for one, n, value in here]
    points = [
        Mark(share(one.n), down(one.value.value))
        for curve in picture.curves
        for one in curve.points
    ]
    lines = [
        Mark(1 - step / 30, down(value) - 8)
        for one, value in known
        if one.n is None
        for step in range(16)
    ]
    key = [Mark(step / 30, -_ABOVE / PIXEL - 5) for step in range(31)]
    spots = labels.spots([*marks, *points, *lines, *key], sizes=style.sizes(wide))
    for (one, n, value), spot in zip(here, spots, strict=False):
        axes.plot(n, value, "o" if one.round else "D", markerfacecolor="none", markersize=4,
                  markeredgecolor=style.THEIRS, markeredgewidth=0.9, zorder=5,
                  clip_on=False)  # fmt: skip
        side = {"start": "left", "end": "right"}.get(spot.anchor, "center")
        axes.annotate(one.text, (n, value), (spot.dx * PIXEL, -(spot.dy - 4) * PIXEL),
                      textcoords="offset points", ha=side, va="center", fontsize=SMALL,
                      color=style.THEIRS, zorder=4,
                      bbox=dict(GROUND, pad=0.2, alpha=0.8))  # fmt: skip
    for one, value in known:
        if one.n is None:
            axes.axhline(value, color=style.THEIRS, linewidth=0.9, dashes=(4, 2))
            axes.annotate(one.text, (across.high, value), (-2, 3), textcoords="offset points",
                          ha="right", fontsize=SMALL, color=style.THEIRS)  # fmt: skip

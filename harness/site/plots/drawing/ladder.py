"""The ladder: the events of a cold start, and what works between them."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.site.charts.ladder import LadderPicture
from harness.site.plots import style
from harness.site.plots.style import NORMAL, SMALL

PICTURE = LadderPicture
KEY = "From top to bottom; between two events: what works. A drawing: distances are not times."
_STEP, _RAIL, _TEXT, _EVENTS = 26.0, 6.0, 18.0, 84.0


def draw(picture: LadderPicture, width: float) -> Figure:
    height = _STEP * len(picture.rungs) + 16
    figure = style.blank(width, (height + 4) * style.POINT)
    axes = style.lane_axes(figure, 2, 2, height)
    axes.set_xlim(0, 72 * width - 8)
    axes.set_xticks([])
    _event(axes, 8, "request", picture.start, style.SOFT)
    for number, rung in enumerate(picture.rungs, 1):
        y = 8 + _STEP * number
        axes.plot([_RAIL, _RAIL], [y - _STEP, y], color=style.GRID, linewidth=1.2, zorder=1)
        axes.text(_TEXT, y - _STEP / 2, rung.worker, va="center", fontsize=SMALL, color=style.SOFT)
        _event(axes, y, rung.name, rung.event, style.HUES[number - 1])
    return figure


def _event(axes: Axes, y: float, name: str, event: str, colour: str) -> None:
    axes.plot(_RAIL, y, "o", color=colour, markersize=5, zorder=2)
    axes.text(_TEXT, y, name, va="center", fontsize=NORMAL)
    axes.text(_EVENTS, y, event, va="center", fontsize=SMALL)

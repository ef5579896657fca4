"""Clocks: the events at which each starts and stops."""

from __future__ import annotations

from matplotlib.figure import Figure

from harness.site.charts.clock import EVENTS, WORDS, ClocksPicture
from harness.site.plots import style
from harness.site.plots.style import GROUND, NORMAL, SMALL

PICTURE = ClocksPicture
KEY = (
    "A line from the event that starts a clock to the one that stops it; dotted where the event is "
    "not stated or only near the one shown. A drawing: distances are not times."
)
_ROW, _TOP, _BOTTOM = 30.0, 14.0, 4.0


def draw(picture: ClocksPicture, width: float) -> Figure:
    height = _ROW * len(picture.several)
    figure = style.blank(width, (_TOP + height + _BOTTOM) * style.POINT)
    axes = style.lane_axes(figure, _TOP, _BOTTOM, height)
    last = len(EVENTS) - 1
    axes.set_xlim(-0.08, last + 0.12)
    axes.set_xticks([])
    for number, word in enumerate(WORDS):
        axes.axvline(number, color=style.GRID, linewidth=0.6)
        side = "left" if number == 0 else "right" if number == last else "center"
        axes.annotate(word, (number, 0), (0, 4), textcoords="offset points", ha=side,
                      fontsize=SMALL, color=style.SOFT)  # fmt: skip
    for number, clock in enumerate(picture.several):
        y = _ROW * number + 9
        colour = style.OURS if clock.ours else style.THEIRS
        end = EVENTS.index(clock.stop) if clock.stop else last
        exact = bool(clock.stop) and clock.exact
        axes.plot([0, end], [y, y], color=colour, linewidth=1.8,
                  linestyle="-" if exact else (0, (1, 1.5)))  # fmt: skip
        axes.plot(0, y, "o", color=colour, markersize=5, clip_on=False)
        if clock.stop:
            axes.plot(end, y, "s", color=colour if exact else "white", markersize=5.5,
                      markeredgecolor=colour, clip_on=False)  # fmt: skip
        else:
            axes.annotate("?", (end, y), (0, 3), textcoords="offset points", ha="center",
                          color=colour, fontsize=NORMAL)  # fmt: skip
        axes.text(0, y + 13, f"{clock.label}: {clock.words}", fontsize=SMALL, bbox=GROUND)
    return figure

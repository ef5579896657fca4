"""A small drawing of several clocks: the events at which each starts and stops.

All share one timeline, the events of a cold start, which shows what each clock leaves out. A clock
that its publisher did not describe is dotted up to where it may have stopped.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from harness.site.charts import labels, svg

EVENTS = ("request", "object", "resumed", "first-reply", "first-exec", "first-touch")
WORDS = ("request", "object", "resumed", "reply", "exec", "touch")
_TOP, _ROW, _LINE, _BOTTOM = 30, 52, 16, 8
_LEFT, _RIGHT = 0.02, 0.05
_FULL = 0.85
"""The share of a phone that one line of words may take: drawings beside text have larger ones."""


@dataclass(frozen=True)
class ClockSpan:
    """`stop` is one of EVENTS, None if unknown; `exact` says whether it is exactly that event."""

    label: str
    words: str
    stop: str | None
    exact: bool = True
    ours: bool = True

    @property
    def broken(self) -> bool:
        """Whether the words need a line of their own, on a phone."""
        sizes = labels.Sizes()
        letters = len(self.label) + 1 + len(self.words)
        return letters * sizes.letter > min(sizes.widths) * _FULL

    @property
    def height(self) -> int:
        return _ROW + (_LINE if self.broken else 0)


@dataclass(frozen=True)
class ClocksPicture:
    """What `clocks` draws."""

    id: str
    several: Sequence[ClockSpan]
    title: str = "Where each clock starts and stops"

    def svg(self) -> Markup:
        return clocks(self.id, self.several)


def _x(number: int) -> float:
    return _LEFT + (1 - _LEFT - _RIGHT) * number / (len(EVENTS) - 1)


def clocks(id: str, several: Sequence[ClockSpan]) -> Markup:
    """The drawing; readable on a phone."""
    tops = list(itertools.accumulate((one.height for one in several), initial=_TOP))
    height = tops[-1] + _BOTTOM
    parts: list[object] = []
    for number, word in enumerate(WORDS):
        x = svg.percent(_x(number))
        anchor = "start" if number == 0 else "end" if number == len(WORDS) - 1 else "middle"
        parts.append(svg.tag("line", x1=x, x2=x, y1=_TOP - 8, y2=height - _BOTTOM, class_="step"))
        # The first from the very edge: on a phone the second is near.
        at = x if number else "0"
        parts.append(svg.tag("text", word, x=at, y=14, text_anchor=anchor, class_="tick"))
    parts += [_clock(one, top + 14) for one, top in zip(several, tops, strict=False)]
    described = " ".join(
        f"{one.label}: from the request to {_end(one)}. {one.words}" for one in several
    )
    return svg.chart(id, "Where each clock starts and stops", described, height, *parts)


def _end(one: ClockSpan) -> str:
    if one.stop is None:
        return "an event that is not stated"
    return one.stop if one.exact else f"an event near {one.stop}"


def _clock(one: ClockSpan, y: float) -> Markup:
    whose = "" if one.ours else " theirs"
    start = svg.percent(_x(0))
    last = EVENTS.index(one.stop) if one.stop else len(EVENTS) - 1
    end = svg.percent(_x(last))
    unsure = "" if one.stop and one.exact else " unsure"
    parts = [
        svg.tag("line", x1=start, x2=end, y1=y, y2=y, class_=f"span{whose}{unsure}"),
        svg.tag("circle", cx=start, cy=y, r=6, class_=f"cap{whose}"),
    ]
    if one.stop:
        size = 12
        parts.append(
            svg.tag(
                "rect",
                x=end,
                y=y - size / 2,
                width=size,
                height=size,
                transform="translate(-6 0)",
                class_=f"cap end{whose}",
            )
        )
    else:
        parts.append(svg.tag("text", "?", x=end, dx=6, y=y + 5, class_="other"))
    parts.append(
        svg.tag(
            "text",
            svg.tag("tspan", one.label, class_="key-value"),
            svg.tag("tspan", one.words, x=start, dy=_LINE) if one.broken else f" {one.words}",
            x=start,
            dx=0,
            y=y + 24,
            class_="key" if one.ours else "other",
        )
    )
    return svg.tag("g", *parts)

"""SVG by hand: elements whose text is escaped, and dots that stay round when a drawing stretches.

A chart is as wide as its place on the page: across, coordinates are percentages, so that text
keeps its size on a phone; down, they are pixels.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Sequence
from itertools import pairwise

from markupsafe import Markup, escape

GRAIN = 2000
"""Horizontal steps of a stretched drawing: finer than the pixels of a wide screen."""
TENTHS = 10
"""Vertical steps of a pixel in a stretched drawing: whole numbers are short."""


def tag(name: str, *children: object, **attributes: object) -> Markup:
    """One element. `class_` is class, `text_anchor` is text-anchor; None leaves one out."""
    text = "".join(
        [
            f' {_attribute(key)}="{_text(value)}"'
            for key, value in attributes.items()
            if value is not None
        ]
    )
    if not children:
        return Markup(f"<{name}{text}/>")
    return Markup(f"<{name}{text}>{''.join(map(_text, children))}</{name}>")


_special = re.compile("[&<>\"']").search


def _text(value: object) -> str:
    """What stands for a value between tags or quotes. Thousands are made: most need nothing."""
    kind = type(value)
    if kind is int or kind is float:
        return str(value)
    text = escape(value) if kind is not str or _special(str(value)) else value
    return str.__str__(text)


@functools.cache
def _attribute(key: str) -> str:
    return key.rstrip("_").replace("_", "-")


def percent(share: float) -> str:
    """A share of the width as an SVG length."""
    return f"{round(share * 100, 2):g}%"


def chart(id: str, title: str, description: str, height: int, *children: object) -> Markup:
    """The whole drawing, named and described for those who do not see it."""
    return Markup(
        f'<svg class="chart" role="img" width="100%" height="{height}" '
        f'aria-labelledby="{id}-title {id}-desc"><title id="{id}-title">{_text(title)}</title>'
        f'<desc id="{id}-desc">{_text(description)}</desc>{"".join(map(_text, children))}</svg>'
    )


def stretched(y: float, height: float, *paths: tuple[str, str]) -> Markup:
    """Paths of a class each, in GRAIN steps across the whole width and TENTHS of pixels down.

    Their strokes do not stretch with them: the style sheet says so.
    """
    drawn = "".join([f'<path class="{kind}" d="{path}"/>' for kind, path in paths])
    return Markup(
        f'<svg y="{y:g}" width="100%" height="{height:g}" '
        f'viewBox="0 0 {GRAIN} {height * TENTHS:g}" preserveAspectRatio="none">{drawn}</svg>'
    )


def dots(points: Iterable[tuple[float, float]]) -> str:
    """Path of one dot a point; x is a share of the width, y pixels. Drawn by a round line cap."""
    return dots_at([(round(x * GRAIN), round(y * TENTHS)) for x, y in points])


def dots_at(points: Sequence[tuple[int, int]]) -> str:
    """The same of points in the steps of a stretched drawing."""
    if not points:
        return ""
    # From one to the next, which is shorter than where each is.
    x, y = points[0]
    moves = [f"m{there[0] - here[0]}{there[1] - here[1]: d}h0" for here, there in pairwise(points)]
    return f"M{x} {y}h0{''.join(moves)}"


def down(pixels: float) -> int:
    """A place down a stretched drawing."""
    return round(pixels * TENTHS)


def glyph(share: float, y: float, path: str, class_: str) -> Markup:
    """A small shape in pixels around a point whose place across is a share of the width."""
    return tag(
        "svg",
        tag("path", d=path, class_=class_),
        x=percent(share),
        y=f"{y:g}",
        width="1",
        height="1",
    )


DIAMOND = "M0-5.5 5.5 0 0 5.5-5.5 0z"
CIRCLE = "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0z"
TRIANGLE = "M0 0 4.5 7h-9z"
CROSS = "M-4-4 4 4M4-4-4 4"

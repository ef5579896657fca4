"""SVG elements with escaped text, and dots that stay round when a drawing is stretched.

The site draws its own inline SVG; matplotlib draws the figures for papers and the README. CSS
restyles inline SVG in light and in dark mode; it needs no script, can link every mark to its
record, keeps its text readable on a phone, and has equal bytes for equal records.

A chart is as wide as its container: horizontal coordinates are percentages, vertical ones pixels.
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
    """A value as text or attribute. There are thousands; most need no escaping."""
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
    """The whole drawing, with a title and a description for screen readers."""
    return Markup(
        f'<svg class="chart" role="img" width="100%" height="{height}" '
        f'aria-labelledby="{id}-title {id}-desc"><title id="{id}-title">{_text(title)}</title>'
        f'<desc id="{id}-desc">{_text(description)}</desc>{"".join(map(_text, children))}</svg>'
    )


def stretched(y: float, height: float, *paths: tuple[str, str]) -> Markup:
    """Paths with one class each, in GRAIN steps across the whole width and TENTHS of pixels down.

    The style sheet keeps strokes from being stretched.
    """
    drawn = "".join([f'<path class="{kind}" d="{path}"/>' for kind, path in paths])
    return Markup(
        f'<svg y="{y:g}" width="100%" height="{height:g}" '
        f'viewBox="0 0 {GRAIN} {height * TENTHS:g}" preserveAspectRatio="none">{drawn}</svg>'
    )


def dots(points: Iterable[tuple[float, float]]) -> str:
    """A path of dots, drawn by round line caps; x is a share of the width, y is in pixels."""
    return dots_at([(round(x * GRAIN), round(y * TENTHS)) for x, y in points])


def dots_at(points: Sequence[tuple[int, int]]) -> str:
    """The same, with points in steps of a stretched drawing."""
    if not points:
        return ""
    # Relative moves are shorter than absolute coordinates.
    x, y = points[0]
    moves = [f"m{there[0] - here[0]}{there[1] - here[1]: d}h0" for here, there in pairwise(points)]
    return f"M{x} {y}h0{''.join(moves)}"


def down(pixels: float) -> int:
    """A vertical position in a stretched drawing."""
    return round(pixels * TENTHS)


def glyph(share: float, y: float, path: str, class_: str) -> Markup:
    """A small shape in pixels, around a point at a share of the width."""
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
WIDE_DIAMOND = "M0-11 11 0 0 11-11 0z"
WIDE_CIRCLE = "M-9 0a9 9 0 1 0 18 0a9 9 0 1 0-18 0z"
TRIANGLE = "M0 0 4.5 7h-9z"
CROSS = "M-4-4 4 4M4-4-4 4"

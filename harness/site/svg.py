"""SVG by hand: elements whose text is escaped, and dots that stay round when a drawing stretches.

A chart is as wide as its place on the page: across, coordinates are percentages, so that text
keeps its size on a phone; down, they are pixels.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable

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
    return tag(
        "svg",
        tag("title", title, id=f"{id}-title"),
        tag("desc", description, id=f"{id}-desc"),
        *children,
        class_="chart",
        role="img",
        width="100%",
        height=height,
        aria_labelledby=f"{id}-title {id}-desc",
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
    parts = []
    last_x = last_y = 0
    for x, y in points:
        # From one to the next, which is shorter; rounded before, so that nothing adds up.
        here_x, here_y = round(x * GRAIN), round(y * TENTHS)
        parts.append(f"{here_x - last_x}{here_y - last_y: d}h0")
        last_x, last_y = here_x, here_y
    return f"M{'m'.join(parts)}" if parts else ""


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
TRIANGLE = "M0 0 4.5 7h-9z"
CROSS = "M-4-4 4 4M4-4-4 4"

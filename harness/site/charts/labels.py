"""Places the labels of marks so that they do not overlap, on a phone and on a wide page.

Charts are as wide as the page, so a label must fit at both extremes of usual widths.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_WIDTHS = (350, 690, 1180)
"""Of a chart in pixels: on a phone, on a tablet, and on a page that is as wide as it gets."""
_NAME_LETTER, _NOTE_LETTER = 9.0, 7.2
"""Pixels of a letter in the name of a row, which is bold, and in a note."""
_UP, _DOWN = 11, 3
_OUTSIDE, _UNREADABLE, _HIDDEN, _COVERED, _CROSSED = 100, 40, 30, 6, 1
_ROUNDS = 4


@dataclass(frozen=True)
class Sizes:
    """In pixels: the widths at which words must be free, of a letter, and of half a mark."""

    widths: Sequence[float] = _WIDTHS
    letter: float = 8
    mark: float = 7


def fits_a_phone(name: str, value: str, note: str = "") -> bool:
    """Whether a row's name and value, and the note between them, fit on a line of the narrowest
    chart."""
    width = (len(name) + len(value)) * _NAME_LETTER + (len(note) + 2) * _NOTE_LETTER
    return width <= min(_WIDTHS)


@dataclass(frozen=True)
class Spot:
    """A label's offset from its mark in pixels, and which end of the text `dx` refers to."""

    dx: int
    dy: int
    anchor: str


RIGHT, LEFT = Spot(12, 4, "start"), Spot(-12, 4, "end")
_SPOTS = (
    RIGHT,
    LEFT,
    Spot(0, -11, "middle"),
    Spot(0, 20, "middle"),
    Spot(6, -11, "end"),
    Spot(6, 20, "end"),
    Spot(-6, -11, "start"),
    Spot(-6, 20, "start"),
    Spot(20, 20, "end"),
    Spot(-20, 20, "start"),
)


@dataclass(frozen=True)
class Mark:
    """A mark at a share of the width and pixels down, with its label, if it has one."""

    share: float
    y: float
    words: str = ""


_Box = tuple[float, float, float, float]


def spots(
    marks: Sequence[Mark],
    walls: Iterable[float] = (),
    *,
    below: bool = True,
    sizes: Sizes = Sizes(),
) -> list[Spot]:
    """A spot for each mark's label, in order; `walls` are vertical lines, as shares of the width.

    Labels go beside their marks, or above and `below` if that is allowed and better, at each of the
    widths.
    """
    free = _SPOTS if below else (RIGHT, LEFT)
    lines = list(walls)
    glyphs = [[_glyph(one, width, sizes) for one in marks] for width in sizes.widths]
    found: dict[int, Spot] = {}
    # Several rounds, so that the first labels can make room for later ones.
    for _ in range(_ROUNDS):
        for number, mark in enumerate(marks):
            if not mark.words:
                continue
            others = [(marks[k], spot) for k, spot in found.items() if k != number]
            taken = [
                (boxes, [_words(one, spot, width, sizes) for one, spot in others])
                for width, boxes in zip(sizes.widths, glyphs, strict=True)
            ]
            found[number] = min(
                free, key=lambda spot: _cost(mark, spot, marks, taken, lines, sizes)
            )
    return [found.get(number, RIGHT) for number in range(len(marks))]


def _glyph(mark: Mark, width: float, sizes: Sizes) -> _Box:
    x = mark.share * width
    return x - sizes.mark, mark.y - sizes.mark, x + sizes.mark, mark.y + sizes.mark


def _words(mark: Mark, spot: Spot, width: float, sizes: Sizes) -> _Box:
    length = sizes.letter * len(mark.words)
    start = mark.share * width + spot.dx
    start -= {"start": 0.0, "middle": length / 2, "end": length}[spot.anchor]
    return start, mark.y + spot.dy - _UP, start + length, mark.y + spot.dy + _DOWN


def _cost(
    mark: Mark,
    spot: Spot,
    marks: Sequence[Mark],
    taken: Sequence[tuple[Sequence[_Box], Sequence[_Box]]],
    walls: Sequence[float],
    sizes: Sizes,
) -> int:
    """The penalty of a spot, summed over all widths; the first of equal spots wins. `taken` has the
    boxes of marks and those of labels, by width."""
    cost = 0
    for width, (glyphs, texts) in zip(sizes.widths, taken, strict=True):
        own = _words(mark, spot, width, sizes)
        left, _, right, _ = own
        cost += _OUTSIDE * (left < 0 or right > width)
        cost += sum(
            _HIDDEN if one.words else _COVERED
            for one, box in zip(marks, glyphs, strict=True)
            if _overlap(own, box)
        )
        cost += _UNREADABLE * sum(_overlap(own, box) for box in texts)
        cost += _CROSSED * sum(left - 4 < wall * width < right + 4 for wall in walls)
    return cost


def _overlap(one: _Box, other: _Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]

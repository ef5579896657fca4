"""Dot plots: one row per series, one dot per sample, values on a logarithmic axis.

Within a row the samples run from top to bottom in the order of measurement, so that drift shows.
Published figures have marks of their own, since their clocks differ.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from harness.claims.published import Figure
from harness.measure.quantity import show
from harness.measure.record import Series
from harness.measure.statistics import Estimate
from harness.site.charts import axis, labels, svg
from harness.site.charts.labels import Mark
from harness.site.data.figures import divided, get
from harness.site.data.publishers import within

_TOP, _ROW, _LANE, _BOTTOM, _KEY = 46, 92, 30, 30, 24
_LINE = 15
"""Pixels of a line under a row's name."""
_VALUE = "0.00 ms"
"""As long as a median is."""
_EDGE = 0.012
_GAP = 8
"""Pixels between a line and the words beside it."""
MOST = 800
"""The most dots in a row; beyond, they are sampled evenly."""


@dataclass(frozen=True)
class Strip:
    """A row: `note` says what a reader must know, `published` has figures of others for it.

    `by` divides every sample, such as host memory by the number of sandboxes. The lines of `under`
    stand below the name.
    """

    label: str
    series: Series | None
    note: str = ""
    warn: bool = False
    muted: bool = False
    by: int = 1
    published: Sequence[tuple[str, Figure]] = ()
    under: Sequence[str] = ()

    @property
    def note_below(self) -> bool:
        """Whether the note of a row with samples has a line of its own."""
        measured = self.series is not None and bool(self.series.samples and self.note)
        return measured and not labels.fits_a_phone(self.label, _VALUE, self.note)

    @property
    def value_below(self) -> bool:
        """Whether the median does not fit beside the name either."""
        return self.series is not None and not labels.fits_a_phone(self.label, _VALUE)

    @property
    def lines(self) -> int:
        """How many lines stand below the name."""
        return max(len(self.under) + self.note_below, self.value_below)

    @property
    def height(self) -> int:
        return _ROW + _LINE * self.lines

    def lane(self, top: float) -> float:
        """Where the dots begin in a row that begins at `top`."""
        return top + 26 + _LINE * self.lines


@dataclass(frozen=True)
class ReferenceLine:
    """A dashed line across all rows at a published value."""

    figure: Figure
    text: str
    aside: str


@dataclass(frozen=True)
class StripPicture:
    """What `strip_chart` draws."""

    id: str
    title: str
    strips: Sequence[Strip]
    line: ReferenceLine | None
    unit: str = "s"

    def svg(self) -> Markup:
        return strip_chart(self.id, self.title, self.strips, self.line, self.unit)


def strip_chart(
    id: str, title: str, strips: Sequence[Strip], line: ReferenceLine | None, unit: str = "s"
) -> Markup:
    """The chart; every series must be in `unit`."""
    scale = axis.decades(values_of(strips, line), unit)
    bottom = _TOP + sum(strip.height for strip in strips)
    parts: list[object] = [_grid(scale, bottom)]
    tops = list(itertools.accumulate((one.height for one in strips[:-1]), initial=_TOP))
    if line and line.figure.value is not None:
        lanes = [strip.lane(top) for strip, top in zip(strips, tops, strict=True)]
        parts.append(_line(line, _x(scale, line.figure.value), lanes))
    parts += [_strip(strip, scale, top, unit) for strip, top in zip(strips, tops, strict=True)]
    key = _key(strips, bottom + _BOTTOM + 14)
    height = bottom + _BOTTOM + (_KEY if key else 0)
    return svg.chart(id, title, _describe(strips, line, unit), height, *parts, *key)


def values_of(strips: Sequence[Strip], line: ReferenceLine | None) -> list[float]:
    found = [line.figure.value] if line and line.figure.value else []
    for strip in strips:
        found += [one / strip.by for one in strip.series.samples] if strip.series else ()
        found += [one.value for _, one in strip.published if one.value]
    return found


def _x(scale: axis.Axis, value: float) -> float:
    return _EDGE + (1 - 2 * _EDGE) * scale.place(value)


def _describe(strips: Sequence[Strip], line: ReferenceLine | None, unit: str) -> str:
    parts = []
    for strip in strips:
        median = estimate_of(strip, "p50")
        words = f"median {show(median, unit)}" if median else strip.note or "not measured"
        parts.append(f"{strip.label}: {', '.join([words, *strip.under])}.")
    if line:
        parts.append(f"Dashed line: {line.text}, {line.aside}.")
    return " ".join(parts) + " The table below has the same figures."


def _grid(scale: axis.Axis, bottom: float) -> Markup:
    parts = []
    for value in scale.minor:
        x = svg.percent(_x(scale, value))
        parts.append(svg.tag("line", x1=x, x2=x, y1=_TOP, y2=bottom, class_="minor"))
    last = len(scale.ticks) - 1
    for number, tick in enumerate(scale.ticks):
        x = svg.percent(_x(scale, tick.value))
        parts.append(svg.tag("line", x1=x, x2=x, y1=_TOP, y2=bottom, class_="major"))
        place = "start" if number == 0 else "end" if number == last else "middle"
        at = {"start": "0%", "end": "100%"}.get(place, x)
        parts.append(
            svg.tag("text", tick.label, x=at, y=bottom + 20, text_anchor=place, class_="tick")
        )
    return svg.tag("g", *parts, class_="axis", aria_hidden="true")


def _strip(strip: Strip, scale: axis.Axis, top: float, unit: str) -> Markup:
    lane = strip.lane(top)
    parts: list[object] = [
        svg.tag("line", x1="0", x2="100%", y1=top, y2=top, class_="rule"),
        svg.tag("text", strip.label, x="0", y=top + 18, class_="row"),
        *(
            svg.tag("text", line, x="0", y=top + 18 + _LINE * number, class_="note")
            for number, line in enumerate(strip.under, 1)
        ),
    ]
    kind = "warn" if strip.warn else "note"
    samples = thinned(strip.series.samples, MOST) if strip.series else ()
    median = estimate_of(strip, "p50")
    if strip.series and median:
        step = (_LANE - 6) / max(len(samples) - 1, 1)
        points = ((_x(scale, value / strip.by), 3 + step * i) for i, value in enumerate(samples))
        parts.append(svg.stretched(lane, _LANE, ("samples", svg.dots(points))))
        parts += _summary(strip, scale, lane)
        value = svg.tag("tspan", show(median, unit), class_="value", data_value=repr(median.value))
        note = [svg.tag("tspan", f"{strip.note} ", class_=kind)] if strip.note else []
        if strip.note_below:
            y = top + 18 + _LINE * strip.lines
            parts.append(svg.tag("text", *note, x="0", y=y))
            note = []
        y = top + 18 + _LINE * (strip.lines if strip.value_below else 0)
        parts.append(svg.tag("text", *note, value, x="100%", y=y, text_anchor="end"))
    else:
        words = strip.note or "not measured on this host"
        # Below the label: beside it there is no room on a phone.
        y = top + 18 + _LINE * (len(strip.under) + 1)
        parts.append(svg.tag("text", words, x="0", y=y, class_=kind))
    parts += _published(strip, scale, lane + _LANE + 21)
    return svg.tag("g", *parts, class_="strip muted" if strip.muted else "strip")


def _published(strip: Strip, scale: axis.Axis, y: float) -> list[Markup]:
    """Published figures of a row, each a diamond with its label."""
    parts = []
    # The key below the axis says whose they are: beside each, a name would not fit on a phone.
    known = [(one.marked, one.value) for _, one in strip.published if one.value is not None]
    marks = [Mark(_x(scale, value), y, words) for words, value in known]
    for mark, (_, value), spot in zip(marks, known, labels.spots(marks, below=False), strict=True):
        parts.append(svg.glyph(mark.share, y, svg.DIAMOND, "other"))
        parts.append(
            svg.tag(
                "text",
                mark.words,
                x=svg.percent(mark.share),
                dx=spot.dx,
                y=y + spot.dy,
                class_="other",
                text_anchor=spot.anchor,
                data_value=repr(value),
            )
        )
    return parts


def _key(strips: Sequence[Strip], y: float) -> list[Markup]:
    """Whose the diamonds are."""
    names = dict.fromkeys(
        within(who) for strip in strips for who, one in strip.published if one.value
    )
    if not names:
        return []
    words = f"published by {' and '.join(names)}"
    return [
        svg.glyph(_EDGE, y, svg.DIAMOND, "other"),
        svg.tag("text", words, x=svg.percent(_EDGE), dx=12, y=y + 4, class_="other"),
    ]


def estimate_of(strip: Strip, statistic: str) -> Estimate | None:
    found = get(strip.series, statistic) if strip.series else None
    return divided(found, strip.by) if found else None


def thinned(samples: Sequence[float], most: int) -> Sequence[float]:
    """At most `most` samples, evenly chosen, in order."""
    n = len(samples)
    return samples if n <= most else [samples[i * n // most] for i in range(most)]


def _summary(strip: Strip, scale: axis.Axis, lane: float) -> list[Markup]:
    median = estimate_of(strip, "p50")
    assert median
    parts = []
    if median.low is not None and median.high is not None:
        low, high = _x(scale, median.low), _x(scale, median.high)
        # A minimum width keeps a very narrow interval visible.
        width = svg.percent(max(high - low, 0.002))
        parts.append(
            svg.tag("rect", x=svg.percent(low), y=lane, width=width, height=_LANE, class_="band")
        )
    x = svg.percent(_x(scale, median.value))
    parts.append(svg.tag("line", x1=x, x2=x, y1=lane - 2, y2=lane + _LANE + 2, class_="median"))
    tail = estimate_of(strip, "p95")
    if tail:
        parts.append(svg.glyph(_x(scale, tail.value), lane + _LANE + 2, svg.TRIANGLE, "tail"))
    return parts


def _line(line: ReferenceLine, x: float, lanes: Sequence[float]) -> Markup:
    """The line with its label above, and a piece in each lane: it must not cross a row's label."""
    place, shift = _beside(x, max(len(line.text), len(line.aside)))
    at = svg.percent(x)
    top = 4 if shift else _TOP - 8
    pieces = [(top, _TOP), *((lane - 2, lane + _LANE + 2) for lane in lanes)]
    return svg.tag(
        "g",
        *(svg.tag("line", x1=at, x2=at, y1=y, y2=end, class_="claim") for y, end in pieces),
        svg.tag(
            "text",
            line.text,
            x=at,
            dx=shift,
            y=16,
            text_anchor=place,
            class_="claim",
            data_value=repr(line.figure.value),
        ),
        svg.tag("text", line.aside, x=at, dx=shift, y=32, text_anchor=place, class_="aside"),
    )


def _beside(x: float, letters: int) -> tuple[str, int]:
    """The anchor and offset of words beside a line; above it where a phone has no room beside."""
    sizes = labels.Sizes()
    narrow, length = min(sizes.widths), letters * sizes.letter
    if max(x, 1 - x) * narrow - _GAP < length <= 2 * min(x, 1 - x) * narrow:
        return "middle", 0
    return ("end", -_GAP) if x > 0.5 else ("start", _GAP)

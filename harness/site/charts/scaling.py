"""How a value grows with N: log-log axes, one curve per series, published figures as marks.

Each point is a median with its interval as a whisker. An optional naive line shows what
multiplying the first point by N would predict.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from harness.claims.published import Figure
from harness.measure.quantity import show, thousands
from harness.measure.statistics import Estimate
from harness.site.charts import axis, labels, svg
from harness.site.charts.labels import Mark, Spot

_KEY, _PLOT, _BOTTOM = 24, 360, 52
_LEFT, _RIGHT = 0.11, 0.02
_STEPS = 8
_NEAR, _CLOSE = 0.01, 10
"""Marks cover each other within this share of the width and these pixels down."""
HUES = 6
"""Curve colours in the style sheet (curve-0 and on); further curves start over."""


@dataclass(frozen=True)
class Point:
    """One value at one `n`; `value` and its bounds are in the chart's unit."""

    n: float
    value: Estimate


@dataclass(frozen=True)
class Curve:
    """A named series; `note` is shown beside its name, such as "suspect"."""

    label: str
    points: Sequence[Point]
    note: str = ""


@dataclass(frozen=True)
class Reference:
    """A published figure: a diamond at `n`, or a dashed horizontal line if `n` is None.

    `round` draws a circle instead, for a second publisher.
    """

    figure: Figure
    text: str
    n: float | None = None
    round: bool = False


@dataclass(frozen=True)
class Naive:
    """The dotted line through `start`, proportional to n."""

    start: Point
    text: str


@dataclass(frozen=True)
class Knee:
    """A dashed vertical line at `n`: what changes there."""

    n: float
    text: str


@dataclass(frozen=True)
class ScalingPicture:
    """What `scaling_chart` draws."""

    id: str
    title: str
    unit: str
    across: str
    curves: Sequence[Curve]
    references: Sequence[Reference] = ()
    naive: Naive | None = None
    knee: Knee | None = None

    @property
    def axes(self) -> tuple[axis.Axis, axis.Axis]:
        """That of N, and that of the values."""
        return (
            axis.decades(_ns(self.curves, self.references), "1"),
            axis.decades(_values(self.curves, self.references), self.unit),
        )

    def svg(self) -> Markup:
        return scaling_chart(
            self.id,
            self.title,
            self.unit,
            self.across,
            self.curves,
            self.references,
            self.naive,
            self.knee,
        )


@dataclass(frozen=True)
class _Plane:
    """Maps n to a share of the width and a value to pixels below the plot's top."""

    n: axis.Axis
    value: axis.Axis

    def x(self, n: float) -> float:
        return _LEFT + (1 - _LEFT - _RIGHT) * self.n.place(n)

    def y(self, value: float) -> float:
        return _PLOT * (1 - self.value.place(value))

    def step(self, n: float) -> int:
        """The horizontal position in steps of a stretched drawing."""
        return round(self.x(n) * svg.GRAIN)

    def step_down(self, value: float) -> int:
        """The vertical position in steps of a stretched drawing."""
        return svg.down(self.y(value))


def scaling_chart(
    id: str,
    title: str,
    unit: str,
    across: str,
    curves: Sequence[Curve],
    references: Sequence[Reference] = (),
    naive: Naive | None = None,
    knee: Knee | None = None,
) -> Markup:
    """The chart. `unit` is the values' record unit, `across` names what N counts."""
    plane = _Plane(
        axis.decades(_ns(curves, references), "1"),
        axis.decades(_values(curves, references), unit),
    )
    top = _KEY * len(curves) + 16
    bottom = top + _PLOT
    parts: list[object] = [_grid(plane, across, top)]
    if naive:
        parts.append(_naive(naive, plane, top))
    if knee:
        parts.append(_knee(knee, plane, top))
    for number, curve in enumerate(curves):
        parts.append(_key(curve, number, unit))
        parts.append(_curve(curve, number, plane, top))
    parts += _references(curves, references, plane, top)
    return svg.chart(
        id, title, _describe(curves, references, unit, across), bottom + _BOTTOM, *parts
    )


def _ns(curves: Sequence[Curve], references: Sequence[Reference]) -> Iterable[float]:
    points = itertools.chain.from_iterable(curve.points for curve in curves)
    return [point.n for point in points] + [one.n for one in references if one.n]


def _values(curves: Sequence[Curve], references: Sequence[Reference]) -> Iterable[float]:
    found = [one.figure.value for one in references if one.figure.value]
    for curve in curves:
        for point in curve.points:
            value = point.value
            found += [part for part in (value.low, value.value, value.high) if part]
    return found


def _describe(
    curves: Sequence[Curve], references: Sequence[Reference], unit: str, across: str
) -> str:
    parts = []
    for curve in curves:
        values = ", ".join(f"{show(one.value, unit)} at {one.n:g}" for one in curve.points)
        parts.append(f"{curve.label}: {values or 'not measured'}.")
    parts += [f"Published by {one.figure.publisher}: {one.text}." for one in references]
    return f"By {across}. " + " ".join(parts) + " The table below has the same figures."


def _grid(plane: _Plane, across: str, top: float) -> Markup:
    lines, words = [], []
    left, right = "0%", svg.percent(1 - _RIGHT)
    for value in plane.value.minor:
        y = f"{top + plane.y(value):g}"
        lines.append(svg.tag("line", x1=left, x2=right, y1=y, y2=y, class_="minor"))
    for tick in plane.value.ticks:
        y = f"{top + plane.y(tick.value):g}"
        lines.append(svg.tag("line", x1=left, x2=right, y1=y, y2=y, class_="major"))
        words.append(svg.tag("text", tick.label, x=left, y=float(y) - 4, class_="tick"))
    last = len(plane.n.ticks) - 1
    for number, tick in enumerate(plane.n.ticks):
        x = svg.percent(plane.x(tick.value))
        lines.append(svg.tag("line", x1=x, x2=x, y1=top, y2=top + _PLOT, class_="minor"))
        # Half of the last one would lie outside.
        at, place = ("100%", "end") if number == last else (x, "middle")
        text, under = thousands(tick.value), top + _PLOT + 20
        words.append(svg.tag("text", text, x=at, y=under, text_anchor=place, class_="tick"))
    words.append(
        svg.tag("text", across, x=right, y=top + _PLOT + 42, text_anchor="end", class_="tick")
    )
    # Words above all lines, which would cut through them.
    return svg.tag("g", *lines, *words, class_="axis", aria_hidden="true")


def _key(curve: Curve, number: int, unit: str) -> Markup:
    """One line of the key: the curve's colour, its name, and its value at the largest N."""
    y = _KEY * number + 14
    note = [svg.tag("tspan", f" {curve.note}", class_="warn")] if curve.note else []
    parts: list[object] = [
        svg.tag("line", x1=0, x2=22, y1=y - 4, y2=y - 4),
        svg.tag("text", curve.label, *note, x=30, y=y, class_="key"),
    ]
    if curve.points:
        last = max(curve.points, key=lambda point: point.n)
        value = svg.tag(
            "tspan", show(last.value, unit), class_="key-value", data_value=repr(last.value.value)
        )
        words = f" at {thousands(last.n)}"
        parts.append(svg.tag("text", value, words, x="100%", y=y, text_anchor="end", class_="key"))
    else:
        parts.append(
            svg.tag("text", "not measured", x="100%", y=y, text_anchor="end", class_="note")
        )
    return svg.tag("g", *parts, class_=f"curve curve-{number % HUES}")


def _curve(curve: Curve, number: int, plane: _Plane, top: float) -> Markup:
    ordered = sorted(curve.points, key=lambda point: point.n)
    line = "".join(
        f"{'L' if index else 'M'}{plane.step(point.n)} {plane.step_down(point.value.value)}"
        for index, point in enumerate(ordered)
    )
    whiskers = "".join(
        f"M{plane.step(point.n)} {plane.step_down(point.value.low)}"
        f"V{plane.step_down(point.value.high)}"
        for point in ordered
        if point.value.low is not None and point.value.high is not None
    )
    points = svg.dots((plane.x(point.n), plane.y(point.value.value)) for point in ordered)
    drawn = [("line", line), ("whisker", whiskers), ("point", points)]
    return svg.tag(
        "g",
        svg.stretched(top, _PLOT, *((kind, path) for kind, path in drawn if path)),
        class_=f"curve curve-{number % HUES}",
    )


def _knee(knee: Knee, plane: _Plane, top: float) -> Markup:
    share = plane.x(knee.n)
    at, left = svg.percent(share), share > 0.5
    line = svg.tag("line", x1=at, x2=at, y1=top, y2=top + _PLOT, class_="knee")
    words = svg.tag(
        "text", knee.text, x=at, y=top + 14, dx=-8 if left else 8,
        text_anchor="end" if left else "start", class_="knee",
    )  # fmt: skip
    return svg.tag("g", line, words)


def _naive(naive: Naive, plane: _Plane, top: float) -> Markup:
    """From the start to where the line leaves the plot, at the right edge or the top."""
    start = naive.start
    end = min(plane.n.high, start.n * plane.value.high / start.value.value)
    path = (
        f"M{plane.step(start.n)} {plane.step_down(start.value.value)}"
        f"L{plane.step(end)} {plane.step_down(start.value.value * end / start.n)}"
    )
    at = top + plane.y(start.value.value * end / start.n)
    return svg.tag(
        "g",
        svg.stretched(top, _PLOT, ("naive", path)),
        svg.tag(
            "text",
            naive.text,
            x=svg.percent(plane.x(end)),
            y=f"{max(at - 6, top + 12):g}",
            dx=-8,
            text_anchor="end",
            class_="note",
        ),
    )


def _references(
    curves: Sequence[Curve], references: Sequence[Reference], plane: _Plane, top: float
) -> list[Markup]:
    """Published figures, with labels that cover neither each other nor a curve's points."""
    known = [(one, one.figure.value) for one in references if one.figure.value is not None]
    marks = [
        Mark(plane.x(one.n), top + plane.y(value), one.text)
        for one, value in known
        if one.n is not None
    ]
    points = [Mark(x, top + y) for curve in curves for x, y in _along(curve.points, plane)]
    # The words of a dashed line, which stand above its right end.
    lines = [
        Mark(1 - _RIGHT - 0.03 * step, top + plane.y(value) - 10)
        for one, value in known
        if one.n is None
        for step in range(_STEPS * 2)
    ]
    spots = iter(labels.spots([*marks, *points, *lines]))
    words = [
        _words(one, top + plane.y(value), plane, next(spots) if one.n is not None else None)
        for one, value in known
    ]
    places = [
        (plane.x(point.n), plane.y(point.value.value)) for curve in curves for point in curve.points
    ]
    # Above all words, since a label may have no other place than across a mark.
    glyphs = [
        svg.glyph(
            plane.x(one.n),
            top + plane.y(value),
            _shape(one, plane.x(one.n), plane.y(value), places),
            "other",
        )
        for one, value in known
        if one.n is not None
    ]
    return [*words, *glyphs]


def _shape(one: Reference, x: float, y: float, points: Iterable[tuple[float, float]]) -> str:
    """A published figure's mark; a wider one where it would cover a point that was measured."""
    covers = any(abs(there - x) < _NEAR and abs(down - y) < _CLOSE for there, down in points)
    if one.round:
        return svg.WIDE_CIRCLE if covers else svg.CIRCLE
    return svg.WIDE_DIAMOND if covers else svg.DIAMOND


def _along(points: Sequence[Point], plane: _Plane) -> Iterable[tuple[float, float]]:
    """The points of a curve, and some of the way from each to the next: a label must not cover
    them."""
    places = [(plane.x(one.n), plane.y(one.value.value)) for one in sorted(points, key=_n)]
    yield from places
    for (x, y), (to_x, to_y) in itertools.pairwise(places):
        for step in range(1, _STEPS):
            share = step / _STEPS
            yield x + (to_x - x) * share, y + (to_y - y) * share


def _n(point: Point) -> float:
    return point.n


def _words(one: Reference, y: float, plane: _Plane, spot: Spot | None) -> Markup:
    if one.n is None or spot is None:
        left, right = svg.percent(_LEFT), svg.percent(1 - _RIGHT)
        line = svg.tag("line", x1=left, x2=right, y1=f"{y:g}", y2=f"{y:g}", class_="claim")
        words = svg.tag(
            "text", one.text, x=right, y=f"{y - 6:g}", text_anchor="end", class_="other"
        )
        return svg.tag("g", line, words)
    share = plane.x(one.n)
    return svg.tag(
        "text",
        one.text,
        x=svg.percent(share),
        y=f"{y + spot.dy:g}",
        dx=spot.dx,
        text_anchor=spot.anchor,
        class_="other",
    )

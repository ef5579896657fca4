"""The rungs of a cold start in one chart: a wire per tier, a bead per rung, time across.

All rungs of a tier come from the same cold starts, so the gap between two beads is the work between
their events. The axis is logarithmic.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from harness.measure.quantity import show
from harness.measure.statistics import Estimate
from harness.site.charts import axis, labels, svg

_KEY, _ROW, _BOTTOM = 56, 58, 30
_BESIDE = 3
"""Rung names per row of the key: more would overlap on a phone."""
_LINE = 15
"""Pixels of a line under a wire's name."""
_VALUE = "0.00 ms"
"""As long as a median is."""
_EDGE = 0.02


@dataclass(frozen=True)
class Wire:
    """A tier with the median of each rung, in seconds; `note` is shown beside its name. One that is
    `published` has the marks of figures of others."""

    label: str
    rungs: Mapping[str, Estimate]
    note: str = ""
    published: bool = False

    @property
    def note_below(self) -> bool:
        """Whether the note of a wire with beads has a line of its own."""
        measured = bool(self.rungs and self.note)
        return measured and not labels.fits_a_phone(self.label, _VALUE, self.note)

    @property
    def value_below(self) -> bool:
        """Whether the last rung's time does not fit beside the name either."""
        return bool(self.rungs) and not labels.fits_a_phone(self.label, _VALUE)

    @property
    def lines(self) -> int:
        """How many lines stand below the name."""
        return int(self.note_below or self.value_below)

    @property
    def height(self) -> int:
        return _ROW + _LINE * self.lines


@dataclass(frozen=True)
class RungsPicture:
    """What `rungs_chart` draws."""

    id: str
    title: str
    names: Sequence[str]
    wires: Sequence[Wire]

    def svg(self) -> Markup:
        return rungs_chart(self.id, self.title, self.names, self.wires)


def rungs_chart(id: str, title: str, names: Sequence[str], wires: Sequence[Wire]) -> Markup:
    """The chart; a tier without rungs is shown as not measured."""
    values = [one.value for wire in wires for one in wire.rungs.values()]
    scale = axis.decades(values, "s")
    tops = list(itertools.accumulate((one.height for one in wires), initial=_KEY))
    bottom = tops.pop()
    parts: list[object] = [_key(names)]
    for tick in scale.ticks:
        x = svg.percent(_x(scale, tick.value))
        parts.append(svg.tag("line", x1=x, x2=x, y1=_KEY, y2=bottom, class_="major"))
    for number, tick in enumerate(scale.ticks):
        place = "start" if number == 0 else "end" if number == len(scale.ticks) - 1 else "middle"
        at = {"start": "0%", "end": "100%"}.get(place, svg.percent(_x(scale, tick.value)))
        parts.append(
            svg.tag("text", tick.label, x=at, y=bottom + 20, text_anchor=place, class_="tick")
        )
    parts += [_wire(wire, names, scale, top) for wire, top in zip(wires, tops, strict=True)]
    return svg.chart(id, title, _describe(wires), bottom + _BOTTOM, *parts)


def _x(scale: axis.Axis, value: float) -> float:
    return _EDGE + (1 - 2 * _EDGE) * scale.place(value)


def _describe(wires: Sequence[Wire]) -> str:
    parts = []
    for wire in wires:
        values = ", ".join(f"{name} {show(one, 's')}" for name, one in wire.rungs.items())
        whose = ", published" if wire.published else ""
        parts.append(f"{wire.label}{whose}: {values or 'not measured'}.")
    return " ".join(parts) + " The table below has the same figures."


def _key(names: Sequence[str]) -> Markup:
    parts = []
    for number, name in enumerate(names):
        share, y = number % _BESIDE / _BESIDE, 20 * (number // _BESIDE)
        parts.append(
            svg.tag("circle", cx=svg.percent(share), cy=10 + y, r=5, transform="translate(6 0)",
                    class_=f"rung-{number}")
        )  # fmt: skip
        parts.append(svg.tag("text", name, x=svg.percent(share), dx=16, y=14 + y, class_="tick"))
    return svg.tag("g", *parts)


def _wire(wire: Wire, names: Sequence[str], scale: axis.Axis, top: float) -> Markup:
    y = top + 36 + _LINE * wire.lines
    parts: list[object] = [svg.tag("text", wire.label, x="0", y=top + 18, class_="row")]
    beads = [(number, wire.rungs[name]) for number, name in enumerate(names) if name in wire.rungs]
    if not beads:
        words = wire.note or "not measured on this host"
        # Where the wire would be: beside the label there is no room on a phone.
        parts.append(svg.tag("text", words, x="0", y=top + 33, class_="note"))
        return svg.tag("g", *parts)
    last = beads[-1][1]
    note = [svg.tag("tspan", f"{wire.note} ", class_="warn")] if wire.note else []
    if wire.note_below:
        parts.append(svg.tag("text", *note, x="0", y=top + 18 + _LINE))
        note = []
    value = svg.tag("tspan", show(last, "s"), class_="value", data_value=repr(last.value))
    beside = top + 18 + _LINE * wire.value_below
    parts.append(svg.tag("text", *note, value, x="100%", y=beside, text_anchor="end"))
    first, end = (svg.percent(_x(scale, one.value)) for one in (beads[0][1], last))
    parts.append(svg.tag("line", x1=first, x2=end, y1=y, y2=y, class_="wire"))
    for number, one in beads:
        if one.low is not None and one.high is not None:
            low, high = svg.percent(_x(scale, one.low)), svg.percent(_x(scale, one.high))
            parts.append(svg.tag("line", x1=low, x2=high, y1=y, y2=y, class_="reach"))
        share = _x(scale, one.value)
        if wire.published:
            parts.append(svg.glyph(share, y, svg.WIDE_DIAMOND, "other"))
        radius = 4 if wire.published else 6
        parts.append(
            svg.tag("circle", cx=svg.percent(share), cy=y, r=radius, class_=f"rung-{number}")
        )
    return svg.tag("g", *parts)

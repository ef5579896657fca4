"""A series over its runs: the median of each run with its interval, oldest at the left.

Runs are equally spaced, since what matters is what changed between two runs, not the time between
them. A disturbed run has a ring; a run that differs from the previous one has a triangle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from harness.measure.comparison import Outcome
from harness.measure.quantity import show
from harness.measure.statistics import Estimate
from harness.site.charts import axis, svg

_TOP, _PLOT, _BOTTOM = 16, 240, 34
_LEFT, _RIGHT = 0.18, 0.02
_UP, _DOWN = "M0-14 5-6h-10z", "M0 14 5 6h-10z"


@dataclass(frozen=True)
class HistoryPoint:
    """One run of the series: the day, the median, its validity, and how it differs."""

    day: str
    value: Estimate
    status: str = "valid"
    change: Outcome = Outcome.SAME


@dataclass(frozen=True)
class HistoryPicture:
    """What `history_chart` draws."""

    id: str
    title: str
    unit: str
    runs: Sequence[HistoryPoint]

    def svg(self) -> Markup:
        return history_chart(self.id, self.title, self.unit, self.runs)


def history_chart(id: str, title: str, unit: str, runs: Sequence[HistoryPoint]) -> Markup:
    """The chart of at least one run."""
    values = [
        part
        for run in runs
        for part in (run.value.low, run.value.value, run.value.high)
        if part is not None
    ]
    scale = axis.fitting(values, unit)
    parts: list[object] = []
    for tick in scale.ticks:
        y = f"{_TOP + _PLOT * (1 - scale.place(tick.value)):g}"
        left, right = svg.percent(_LEFT), svg.percent(1 - _RIGHT)
        parts.append(svg.tag("line", x1=left, x2=right, y1=y, y2=y, class_="major"))
        parts.append(
            svg.tag("text", tick.label, x=left, dx=-8, y=float(y) + 4, text_anchor="end",
                    class_="tick")
        )  # fmt: skip
    parts += _days(runs)
    at = [(_x(n, len(runs)), _PLOT * (1 - scale.place(run.value.value))) for n, run in
          enumerate(runs)]  # fmt: skip
    line = "".join(f"{'L' if n else 'M'}{round(x * svg.GRAIN)} {svg.down(y)}" for n, (x, y) in
                   enumerate(at))  # fmt: skip
    whiskers = "".join(
        f"M{round(x * svg.GRAIN)} {svg.down(_PLOT * (1 - scale.place(run.value.low)))}"
        f"V{svg.down(_PLOT * (1 - scale.place(run.value.high)))}"
        for (x, _), run in zip(at, runs, strict=True)
        if run.value.low is not None and run.value.high is not None
    )
    rings = svg.dots(p for p, run in zip(at, runs, strict=True) if run.status != "valid")
    drawn = [("line", line), ("whisker", whiskers), ("point", svg.dots(at))]
    if rings:
        parts.append(svg.stretched(_TOP, _PLOT, ("suspect", rings)))
    parts.append(
        svg.tag(
            "g",
            svg.stretched(_TOP, _PLOT, *((kind, path) for kind, path in drawn if path)),
            class_="curve curve-0",
        )
    )
    for (across, down), run in zip(at, runs, strict=True):
        if run.change in (Outcome.BETTER, Outcome.WORSE):
            shape = _UP if run.change is Outcome.WORSE else _DOWN
            parts.append(svg.glyph(across, _TOP + down, shape, str(run.change)))
    first, last = runs[0], runs[-1]
    described = (
        f"{len(runs)} runs from {first.day} to {last.day}; the first {show(first.value, unit)}, "
        f"the last {show(last.value, unit)}. The table below has the same figures."
    )
    return svg.chart(id, title, described, _TOP + _PLOT + _BOTTOM, *parts)


def _x(number: int, count: int) -> float:
    return _LEFT + (1 - _LEFT - _RIGHT) * ((number + 0.5) / count)


def _days(runs: Sequence[HistoryPoint]) -> list[Markup]:
    """The days of the first and of the last run."""
    y = _TOP + _PLOT + 24
    parts = [svg.tag("text", runs[0].day, x=svg.percent(_LEFT), y=y, class_="tick")]
    if runs[-1].day != runs[0].day:
        parts.append(
            svg.tag("text", runs[-1].day, x=svg.percent(1 - _RIGHT), y=y, text_anchor="end",
                    class_="tick")
        )  # fmt: skip
    return parts

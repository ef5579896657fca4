"""The drawing on the method page: one cold start, its rungs, and what works in between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from harness.site.charts import svg

_STEP, _TOP, _RAIL = 58, 22, 10


@dataclass(frozen=True)
class Rung:
    """`worker` says what happens between the previous event and this one."""

    name: str
    event: str
    worker: str


@dataclass(frozen=True)
class LadderPicture:
    """What `ladder` draws."""

    id: str
    start: str
    rungs: Sequence[Rung]
    title: str = "One cold start and the rungs of its clock"

    def svg(self) -> Markup:
        return ladder(self.id, self.start, self.rungs)


def ladder(id: str, start: str, rungs: Sequence[Rung]) -> Markup:
    """From top to bottom, with one column of text: readable on a phone."""
    parts: list[object] = [_event(_TOP, "request", start, first=True)]
    for number, rung in enumerate(rungs, 1):
        y = _TOP + _STEP * number
        parts.append(
            svg.tag(
                "line", x1=_RAIL, x2=_RAIL, y1=y - _STEP + 7, y2=y - 7, class_=f"rail rail-{number}"
            )
        )
        parts.append(svg.tag("text", rung.worker, x=28, y=y - _STEP / 2 + 5, class_="aside"))
        parts.append(_event(y, rung.name, rung.event))
    described = f"{start}; then " + "; ".join(f"{one.name}: {one.event}" for one in rungs) + "."
    height = _TOP + _STEP * len(rungs) + 26
    return svg.chart(id, "One cold start and the rungs of its clock", described, height, *parts)


def _event(y: float, name: str, event: str, first: bool = False) -> Markup:
    return svg.tag(
        "g",
        svg.tag("circle", cx=_RAIL, cy=y, r=6, class_="start" if first else "stop"),
        svg.tag("text", name, x=28, y=y + 5, class_="row"),
        svg.tag("text", event, x=130, y=y + 5, class_="note"),
    )

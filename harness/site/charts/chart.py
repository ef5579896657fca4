"""A chart on a page, and its files: SVG, CSV and JSON at stable addresses.

The table below the drawing has the same rows as the files. The drawing is made of a
picture, which says what is drawn but not how: harness/site/plots/ draws the same for papers.
"""

from __future__ import annotations

import functools
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from markupsafe import Markup

from harness import paths
from harness.claims.published import Figure
from harness.site.charts import remarks, svg
from harness.site.charts.remarks import Drawn
from harness.site.charts.strip import Strip
from harness.site.data import figures
from harness.site.data.corpus import RecordEntry
from harness.site.data.figures import AnySeries
from harness.site.data.files import as_csv, as_json
from harness.site.page import Asset

_STYLE = paths.SITE / "static" / "chart.css"
COLUMNS = (
    "what", "n", "failed", "p50", "low", "high", "p95", "unit", "record", "source",
    "state", "day", "accelerator", "reach", "rehearsed",
)  # fmt: skip


@dataclass(frozen=True)
class ChartRow:
    """A row of a chart's table: one of our series or a published figure.

    `by` divides the series' values, such as host memory by the number of sandboxes.
    """

    label: str
    entry: RecordEntry | None = None
    series: AnySeries | None = None
    published: Figure | None = None
    by: int = 1

    def cells(self) -> Sequence[str | int | float | None]:
        """The values of COLUMNS; numbers in plain SI."""
        if self.published:
            one = self.published
            return (
                self.label, None, None, one.value, None, None, None, one.unit, None, one.source,
                one.state or None, None, None, None, None,
            )  # fmt: skip
        if not self.entry or not self.series or figures.withheld(self.entry, self.series):
            return (self.label, *[None] * (len(COLUMNS) - 1))
        n, failed = figures.size(self.series)
        middle, tail = figures.get(self.series, "p50"), figures.get(self.series, "p95")
        value = figures.divided(middle, self.by) if middle else None
        conditions = figures.conditions(self.entry, self.series)
        return (
            self.label,
            n,
            failed,
            value.value if value else None,
            value.low if value else None,
            value.high if value else None,
            tail.value / self.by if tail else None,
            self.series.unit,
            self.entry.raw,
            None,
            None,
            self.entry.date,
            conditions.accelerator,
            conditions.reach,
            conditions.rehearsed,
        )


def drawn(rows: Iterable[ChartRow]) -> Sequence[Drawn]:
    """The rows with a measured series."""
    return [(row.label, row.entry, row.series) for row in rows if row.entry and row.series]


def with_conditions(strips: Iterable[Strip], rows: Sequence[ChartRow]) -> list[Strip]:
    """The strips with lines that say under what conditions the row of the same name was measured,
    and on which day, if they are several."""
    dated = len(remarks.days_of(entry for _, entry, _ in drawn(rows))) > 1
    lines = {
        row.label: remarks.under(row.entry, row.series, dated=dated, divided=row.by > 1)
        for row in rows
        if row.entry and row.series
    }
    return [replace(strip, under=lines.get(strip.label, ())) for strip in strips]


class Picture(Protocol):
    """What a chart draws: its marks and words, which each kind of picture has fields for."""

    @property
    def title(self) -> str: ...

    def svg(self) -> Markup:
        """The drawing as it stands in a page."""
        ...


@dataclass(frozen=True)
class Chart:
    """`name` is its path without a suffix."""

    name: str
    title: str
    picture: Picture
    rows: Sequence[ChartRow]

    @functools.cached_property
    def drawing(self) -> Markup:
        """The SVG as it stands in a page."""
        return self.picture.svg()

    @functools.cached_property
    def remarks(self) -> Sequence[str]:
        """What must be read with the drawing: emulation, reach, rehearsal, different days."""
        return remarks.of(drawn(self.rows))

    def assets(self) -> Iterator[Asset]:
        """The three files beside the page."""
        rows = [row.cells() for row in self.rows]
        yield Asset(f"{self.name}.svg", standalone(self.drawing, self.remarks))
        yield Asset(f"{self.name}.csv", as_csv(COLUMNS, rows))
        data = {
            "title": self.title,
            "rows": [dict(zip(COLUMNS, row, strict=True)) for row in rows],
        }
        yield Asset(f"{self.name}.json", as_json(data))


@functools.cache
def _style() -> str:
    return _STYLE.read_text(encoding="utf-8")


_LINE, _CHARACTERS = 18, 120
"""Of the remarks below a drawing: the height of a line in pixels, and its characters."""
_HEIGHT = re.compile(r' height="(\d+)"')


def standalone(drawing: Markup, under: Sequence[str] = (), width: int = 960) -> bytes:
    """A drawing as a standalone file, with its style, size and background, and remarks `under`
    it, which a page has in its caption."""
    lines = [line for one in under for line in textwrap.wrap(one, _CHARACTERS)]
    head, rest = str(drawing).split(">", 1)
    height = int(_HEIGHT.findall(head)[0])
    head = _HEIGHT.sub(f' height="{height + _LINE * len(lines)}"', head, count=1)
    texts = "".join(
        svg.tag("text", line, x="0", y=height + _LINE * number - 4, class_="note")
        for number, line in enumerate(lines, 1)
    )
    head = head.replace('width="100%"', f'width="{width}"', 1).replace(
        "<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1
    )
    # The title must come first for screen readers.
    named, mark, after = rest.partition("</desc>")
    ground = '<rect class="ground" x="-24" y="-24" width="110%" height="110%"/>'
    style = f"<style>{_style()}</style>"
    after = after.removesuffix("</svg>")
    return f"{head}>{named}{mark}{style}{ground}{after}{texts}</svg>\n".encode()

"""A chart as it stands on a page and beside it: SVG, CSV and JSON at stable addresses.

What is drawn stands in a table below the drawing, in the same rows as in its files.
"""

from __future__ import annotations

import csv
import functools
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from harness import paths
from harness.claims.published import Figure
from harness.site.builder.page import Asset
from harness.site.data import figures
from harness.site.data.corpus import Entry
from harness.site.data.figures import Shown

_STYLE = paths.SITE / "static" / "chart.css"
COLUMNS = ("what", "n", "failed", "p50", "low", "high", "p95", "unit", "record", "source")


@dataclass(frozen=True)
class Row:
    """A row of a chart's table: a series of ours, or a figure that somebody published.

    `by` divides the series, such as a host's memory by the sandboxes on it.
    """

    label: str
    entry: Entry | None = None
    series: Shown | None = None
    published: Figure | None = None
    by: int = 1

    def cells(self) -> Sequence[str | int | float | None]:
        """The values of COLUMNS; numbers in plain SI."""
        if self.published:
            one = self.published
            return (
                self.label, None, None, one.value, None, None, None, one.unit, None, one.source,
            )  # fmt: skip
        if not self.entry or not self.series or figures.withheld(self.entry, self.series):
            return (self.label, *[None] * (len(COLUMNS) - 1))
        n, failed = figures.size(self.series)
        middle, tail = figures.get(self.series, "p50"), figures.get(self.series, "p95")
        value = figures.divided(middle, self.by) if middle else None
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
        )


@dataclass(frozen=True)
class Chart:
    """`name` is its address without an ending; `drawing` the SVG as it stands in a page."""

    name: str
    title: str
    drawing: Markup
    rows: Sequence[Row]

    def assets(self) -> Iterator[Asset]:
        """The three files beside the page."""
        rows = [row.cells() for row in self.rows]
        yield Asset(f"{self.name}.svg", standalone(self.drawing))
        yield Asset(f"{self.name}.csv", table(COLUMNS, rows))
        data = {
            "title": self.title,
            "rows": [dict(zip(COLUMNS, row, strict=True)) for row in rows],
        }
        yield Asset(f"{self.name}.json", as_json(data))


def as_json(data: Mapping[str, object]) -> bytes:
    """JSON for machines: stable, one key a line, and of lists one thing a line."""
    keys = []
    for key, value in data.items():
        if isinstance(value, list | tuple) and value:
            items = ",\n  ".join(map(_compact, value))
            keys.append(f" {_compact(key)}: [\n  {items}\n ]")
        else:
            keys.append(f" {_compact(key)}: {_compact(value)}")
    # Not with indent=: that is many times slower, and lists of thousands are written so.
    return ("{\n" + ",\n".join(keys) + "\n}\n").encode()


_compact = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> bytes:
    """CSV with a header; a cell that a spreadsheet would compute is quoted against it."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([harmless(cell) for cell in row])
    return out.getvalue().encode()


def harmless(cell: object) -> object:
    """A cell that no spreadsheet takes for a formula."""
    if isinstance(cell, str) and cell[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return f"'{cell}"
    return "" if cell is None else repr(cell) if isinstance(cell, float) else cell


@functools.cache
def _style() -> str:
    return _STYLE.read_text()


def standalone(drawing: Markup, width: int = 960) -> bytes:
    """A drawing as a file of its own: with its style, its size, and a ground to stand on."""
    head, rest = str(drawing).split(">", 1)
    head = head.replace('width="100%"', f'width="{width}"', 1).replace(
        "<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1
    )
    # The title comes first: it is what a reader is told.
    named, mark, after = rest.partition("</desc>")
    ground = '<rect class="ground" x="-24" y="-24" width="110%" height="110%"/>'
    style = f"<style>{_style()}</style>"
    return f"{head}>{named}{mark}{style}{ground}{after}\n".encode()

"""Finishes the tables of a page: a CSV file beside each, and labels for rows that become cards.

A table is found by its markup in the rendered page, so that no template can forget its file. Tables
of charts are left alone, since their files are the chart's.
"""

from __future__ import annotations

import html
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser

from harness.errors import SiteError
from harness.site.data.addresses import relative, slug
from harness.site.data.files import as_csv

_TABLE = re.compile(
    r'(?P<region><div class="scroll" role="region" aria-label="(?P<around>[^"]*)"[^>]*>\s*)?'
    r'<table(?P<facts>[^>]*)>(?P<inner>.*?)</table>(?P<end>\s*</div>)?',
    re.DOTALL,
)  # fmt: skip
_LABEL = re.compile(r'aria-label="([^"]*)"')
_CAPTION = re.compile(r"<caption>([^<]*)</caption>")
_CELL = re.compile(r"<(tr|td|th)\b([^>]*)>")
_SPAN = re.compile(r'colspan="(\d+)"')
_LONGEST = 80
"""Letters of a file's name: the name of a rig may be of any length."""
_OF_CHART = ", as a table"
_UNLISTED = ("runs/", "history/")
"""Pages whose tables have no file: a run's page has its whole record as JSON."""


_INLINE = frozenset(("a", "abbr", "b", "code", "data", "em", "s", "span", "strong"))
"""Elements whose text goes on with that around it, unless a class in _APART sets them apart."""
_APART = frozenset(("badge", "how", "interval", "mark", "proof", "runs", "since", "theirs"))
_VOID = frozenset(("br", "img", "wbr"))
_ENDS = (",", ";", ":", ".", ")")
_JOIN = "; "
_BREAK = "\0"
MEASURED, PUBLISHED = "measured", "published"


@dataclass(frozen=True)
class _Figure:
    """A figure of a cell; `upper` is the other end of a range."""

    value: str
    unit: str
    kind: str
    upper: str = ""


@dataclass
class _Cell:
    colspan: int
    rowspan: int
    text: str = ""
    figures: list[_Figure] = field(default_factory=list)

    @property
    def plain(self) -> str:
        """The text in one line, with a mark between its parts."""
        shown = ""
        for part in map(_plain, self.text.split(_BREAK)):
            if shown and part:
                close = part.startswith(("of ", *_ENDS)) or shown.endswith(_ENDS)
                shown += ("" if part.startswith(_ENDS) else " ") if close else _JOIN
            shown += part
        return shown

    def of(self, kind: str) -> Sequence[_Figure]:
        return [one for one in self.figures if one.kind == kind]


class _Reader(HTMLParser):
    """The cells of one table, by row; `head` counts the rows of its header."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[_Cell]] = []
        self.head = 0
        self._open = False
        self._hidden = ""
        self._around: list[tuple[str, bool]] = []
        self._between = ""  # the text since the last figure
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        facts = dict(attrs)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            across, down = (int(facts.get(name) or 1) for name in ("colspan", "rowspan"))
            self.rows[-1].append(_Cell(across, down))
            self._open = True
        elif self._open:
            cell = self.rows[-1][-1]
            apart = tag not in _INLINE or _APART & set((facts.get("class") or "").split())
            if tag not in _VOID:
                self._around.append((tag, bool(apart)))
            cell.text += _BREAK if apart else " "
            if facts.get("aria-hidden") == "true":
                self._hidden = tag
            if tag == "data":
                kind = PUBLISHED if "data-published" in facts else MEASURED
                unit, upper = facts.get("data-unit") or "", facts.get("data-upper") or ""
                figure = _Figure(str(facts["value"]), unit, kind, upper)
                if cell.figures and self._between.split() == ["to"]:
                    figure = replace(cell.figures.pop(), upper=figure.value)
                cell.figures.append(figure)

    def handle_endtag(self, tag: str) -> None:
        if tag == "thead":
            self.head = len(self.rows)
        if tag == self._hidden:
            self._hidden = ""
        if tag == "data":
            self._between = ""
        if tag in ("td", "th"):
            self._open = False
            self._around.clear()
        elif self._open:
            known, apart = self._around.pop() if self._around else ("", False)
            assert known == tag, f"{tag} ends where {known or 'nothing'} is open"
            self.rows[-1][-1].text += _BREAK if apart else " "

    def handle_data(self, data: str) -> None:
        if self._open and not self._hidden:
            self.rows[-1][-1].text += data
            self._between += data


@dataclass(frozen=True)
class _Grid:
    """A table with one cell for each column of each row, and the name of each column."""

    columns: Sequence[str]
    body: Sequence[Sequence[_Cell]]


def _grid(text: str) -> _Grid:
    read = _Reader(text)
    laid: list[dict[int, _Cell]] = [{} for _ in read.rows]
    for number, row in enumerate(read.rows):
        at = 0
        for cell in row:
            while at in laid[number]:
                at += 1
            for down in range(min(cell.rowspan, len(laid) - number)):
                for across in range(cell.colspan):
                    # A body's wide cell stands in its first column; a header's is above them all.
                    first = across == 0 or number < read.head
                    laid[number + down][at + across] = cell if first else _Cell(1, 1)
    width = max((max(row, default=-1) for row in laid), default=-1) + 1
    names = []
    for at in range(width):
        above = dict.fromkeys(
            _plain(row[at].text.replace(_BREAK, " ")) for row in laid[: read.head] if at in row
        )
        names.append(" ".join(name for name in above if name))
    blank = _Cell(1, 1)
    return _Grid(names, [[row.get(at, blank) for at in range(width)] for row in laid[read.head :]])


def _plain(text: str) -> str:
    return re.sub(r"\s+([,;.)])", r"\1", " ".join(text.replace("\u202f", " ").split()))


def _csv(grid: _Grid) -> bytes:
    """The cells as a page shows them; beside a column of figures theirs in SI, with the units.

    Figures that were measured here and published ones have columns of their own, and so have the
    ends of a range.
    """
    kinds = {one.kind for row in grid.body for cell in row for one in cell.figures}
    names: list[str] = []
    columns: list[list[str]] = []
    for at, name in enumerate(grid.columns):
        cells = [row[at] for row in grid.body]
        names.append(name)
        columns.append([cell.plain for cell in cells])
        for kind in (MEASURED, PUBLISHED):
            several = max((len(cell.of(kind)) for cell in cells), default=0)
            for number in range(several):
                parts = [name, kind if len(kinds) > 1 and kind not in name.split() else ""]
                called = " ".join(filter(None, [*parts, str(number + 1) if number else ""]))
                for part, values in _exact([cell.of(kind)[number:] for cell in cells]).items():
                    names.append(f"{called} ({part})")
                    columns.append(values)
    return as_csv(names, list(zip(*columns, strict=True)))


def _exact(figures: Sequence[Sequence[_Figure]]) -> Mapping[str, list[str]]:
    """The first figure of each cell in SI, as columns by what they hold."""
    first = [cell[0] if cell else None for cell in figures]
    found = {"SI": [one.value if one else "" for one in first]}
    if any(one and one.upper for one in first):
        found = {
            "SI, low": found["SI"],
            "SI, high": [(one.upper or one.value) if one else "" for one in first],
        }
    return found | {"unit": [one.unit if one else "" for one in first]}


def _labelled(inner: str, columns: Sequence[str]) -> str:
    """The rows with a label at each cell, for screens on which a row becomes a card."""
    head, mark, body = inner.partition("</thead>")
    at = 0

    def label(found: re.Match[str]) -> str:
        nonlocal at
        kind, facts = found[1], found[2]
        if kind == "tr":
            at = 0
            return found[0]
        name = columns[at] if at < len(columns) else ""
        span = _SPAN.search(facts)
        at += int(span[1]) if span else 1
        if kind == "td" and name == "verdict" and "class=" not in facts:
            return f'<td{facts} class="verdict">'
        known = kind == "th" or not name or "data-label" in facts or 'class="verdict"' in facts
        return found[0] if known else f'<td{facts} data-label="{html.escape(name)}">'

    return head + mark + _CELL.sub(label, body)


def finish(path: str, page: bytes) -> tuple[bytes, Mapping[str, bytes]]:
    """The page with its tables finished, and their files by path. Raises SiteError if two tables of
    a page have the same name."""
    if path.startswith(_UNLISTED) or b"<table" not in page:
        return page, {}
    files: dict[str, bytes] = {}
    stem = posixpath.splitext(path)[0].replace("/", ".")

    def replace(found: re.Match[str]) -> str:
        own = _LABEL.search(found["facts"])
        caption = _CAPTION.search(found["inner"])
        name = html.unescape(own[1] if own else found["around"] or (caption[1] if caption else ""))
        if not name or name.endswith(_OF_CHART):
            return found[0]
        grid = _grid(found["inner"])
        inner = found["inner"]
        if "cards" in found["facts"]:
            inner = _labelled(inner, grid.columns)
        target = f"tables/{stem}.{slug(name)[:_LONGEST]}.csv"
        if target in files:
            raise SiteError(f"{path} has two tables that are called {name!r}")
        files[target] = _csv(grid)
        end = found["end"] if found["region"] else ""
        rest = (found["end"] or "") if not found["region"] else ""
        return (
            f"{found['region'] or ''}<table{found['facts']}>{inner}</table>{end or ''}"
            f'\n<p class="files csv"><a href="{relative(path, target)}">CSV</a></p>{rest}'
        )

    return _TABLE.sub(replace, page.decode()).encode(), files

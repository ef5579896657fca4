"""The matrix of the E2B SDK's methods, measured here, and what others state of their systems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from harness.claims import systems
from harness.claims.matrices import PublishedMatrix
from harness.measure.record import Series
from harness.site.data import services
from harness.site.data.corpus import Corpus, RecordEntry
from harness.site.data.network import RigRecord, best_of, newest

RIG = "e2b-compat"
METHODS = "methods of the SDK"
OURS = systems.title(systems.GATEWAY)
KINDS: Mapping[str, tuple[str, str, str]] = {
    "works": ("✓", "works", "it returns what E2B's does, and has its effect"),
    "differs": ("≠", "differs", "it answers, but not as E2B does"),
    "refused": ("⊘", "refused by name", "the service says that it does not support it"),
    "missing": ("∅", "missing", "the service has no such operation"),
    "not-offered": ("–", "not offered", "the operator, the plan or the template has none"),
    "fails": ("✗", "fails", "with the message below the tables"),
}
"""The verdicts: sign, name and meaning. Records before November 2026 know only the first and the
last."""


@dataclass(frozen=True)
class Column:
    """`classes` is sync or async, or "" where there is one kind."""

    sdk: str
    classes: str

    @property
    def name(self) -> str:
        return f"{self.sdk} {self.classes}".strip()


@dataclass(frozen=True)
class MethodResult:
    """One method or operation with one SDK; `message` is what was answered unless it works."""

    kind: str
    message: str

    @property
    def works(self) -> bool:
        return self.kind == "works"


@dataclass(frozen=True)
class MethodRow:
    """`published` has the verdicts of published matrices, in their order, for a method."""

    name: str
    cells: Sequence[MethodResult | None]
    published: Sequence[str | None] = ()

    @property
    def reasons(self) -> Sequence[tuple[str, str]]:
        """What was answered unless it works, each once, with the columns that got it."""
        return tuple(dict.fromkeys((one.kind, one.message) for one in self.cells
                                   if one and not one.works))  # fmt: skip


@dataclass(frozen=True)
class Score:
    """How many of a column's methods work."""

    works: int
    of: int


@dataclass(frozen=True)
class Table:
    """`groups` are rows by what they belong to: a class of the SDK, or nothing."""

    name: str
    groups: Mapping[str, Sequence[MethodRow]]
    scores: Sequence[Score]
    published: Sequence[PublishedMatrix] = ()

    @property
    def rows(self) -> Sequence[MethodRow]:
        return [row for rows in self.groups.values() for row in rows]


@dataclass(frozen=True)
class Matrix:
    """What one record says of one service. The first column is the newest SDK's."""

    entry: RecordEntry
    service: str
    columns: Sequence[Column]
    tables: Sequence[Table]
    over_https: Sequence[str] = field(default_factory=tuple)
    """The SDKs that were tested against a gateway with TLS."""

    @property
    def kinds(self) -> Sequence[str]:
        """The verdicts that occur, in the order of KINDS."""
        found = {
            one.kind for table in self.tables for row in table.rows for one in row.cells if one
        }
        return [kind for kind in KINDS if kind in found]

    @property
    def score(self) -> str:
        """How many methods of the newest SDK work; over all columns in an older record."""
        for table in self.tables:
            if table.name == METHODS:
                score = table.scores[0]
                return f"{score.works} of {score.of} methods of {self.columns[0].name}"
        scores = [score for table in self.tables for score in table.scores]
        works, of = sum(one.works for one in scores), sum(one.of for one in scores)
        return f"{works} of {of}, across {len(self.columns)} SDK versions"


def _newest_first(column: Column) -> tuple[bool, Sequence[int], bool]:
    """Python's before others, and of a version the synchronous classes before the others."""
    language, _, version = column.sdk.partition("-")
    numbers = [-int(part) for part in version.split(".") if part.isdigit()]
    return language != "python", numbers, column.classes == "async"


def _cell(series: Series) -> MethodResult:
    failure = series.failures[0] if series.failures else None
    if series.samples and series.samples[0] == 1:
        return MethodResult("works", "")
    kind = failure.kind if failure and failure.kind in KINDS else "fails"
    return MethodResult(str(kind), failure.reason if failure else "")


def matrices(corpus: Corpus) -> Sequence[Matrix]:
    """That of our own gateway, and that of each service that was measured."""
    own = newest(corpus, RIG)
    found = [_matrix(own.entry, OURS, corpus.matrices)] if own else []
    for service in services.found(corpus):
        entries = [entry for entry in service.entries if entry.summary.rig.id == RIG]
        if entries:
            best = best_of(entries)
            found.append(_matrix(best, services.title(service.facts), corpus.matrices))
    return found


def matrix(corpus: Corpus) -> Matrix | None:
    """That of our own gateway."""
    return next((one for one in matrices(corpus) if one.service == OURS), None)


def _matrix(entry: RecordEntry, service: str, published: Sequence[PublishedMatrix]) -> Matrix:
    columns: dict[Column, None] = {}
    cells: dict[str, dict[str, dict[Column, MethodResult]]] = {}
    over_https: dict[str, None] = {}
    for series in entry.record.series:
        known = series.dimensions
        column = Column(str(known["sdk"]), str(known.get("classes") or ""))
        columns[column] = None
        if "over" in known:
            over_https[column.sdk] = None
        method = known.get("method")
        table = METHODS if method else f"operations of the {known['plane']}"
        rows = cells.setdefault(table, {})
        rows.setdefault(str(method or known["operation"]), {})[column] = _cell(series)
    shown = sorted(columns, key=_newest_first)
    tables = [
        _table(name, rows, shown, published if name == METHODS else ())
        for name, rows in cells.items()
    ]
    return Matrix(entry, service, shown, tables, list(over_https))


def _table(
    name: str, rows: Mapping[str, Mapping[Column, MethodResult]], columns: Sequence[Column],
    published: Sequence[PublishedMatrix],
) -> Table:  # fmt: skip
    groups: dict[str, list[MethodRow]] = {}
    methods = name == METHODS
    ordered = sorted(rows, key=_of_methods if methods else _of_operations)
    for row in ordered:
        cells = [rows[row].get(column) for column in columns]
        stated = [one.of_method(row) for one in published]
        group = row.partition(".")[0].lower() if methods else ""
        groups.setdefault(group, []).append(MethodRow(row, cells, stated))
    scores = []
    for at, _ in enumerate(columns):
        own = [cell for rows_ in groups.values() for row_ in rows_ if (cell := row_.cells[at])]
        scores.append(Score(sum(cell.works for cell in own), len(own)))
    return Table(name, groups, scores, published)


def _of_methods(name: str) -> tuple[bool, str, str]:
    """Those of sandboxes first."""
    group, _, method = name.partition(".")
    return group.lower() != "sandbox", group.lower(), method


def _of_operations(name: str) -> str:
    return name.partition(" ")[2]


def latency(corpus: Corpus) -> RigRecord | None:
    return newest(corpus, "e2b-latency")

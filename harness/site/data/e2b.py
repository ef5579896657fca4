"""The matrix of E2B operations by SDK, measured here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.measure.record import Series
from harness.site.data.corpus import Corpus, RecordEntry
from harness.site.data.network import RigRecord, newest


@dataclass(frozen=True)
class OperationResult:
    """One operation with one SDK; `message` is the SDK's error if it fails."""

    works: bool
    message: str


@dataclass(frozen=True)
class OperationRow:
    operation: str
    cells: Sequence[OperationResult | None]


@dataclass(frozen=True)
class Score:
    """How many of an SDK's operations work."""

    works: int
    of: int


@dataclass(frozen=True)
class Plane:
    name: str
    rows: Sequence[OperationRow]
    scores: Sequence[Score]


@dataclass(frozen=True)
class Matrix:
    entry: RecordEntry
    sdks: Sequence[str]
    planes: Sequence[Plane]
    over_https: Sequence[str]
    """The SDKs that were tested against a gateway with TLS."""


def _cell(series: Series) -> OperationResult:
    message = series.failures[0].reason if series.failures else ""
    return OperationResult(bool(series.samples) and series.samples[0] == 1, message)


def matrix(corpus: Corpus) -> Matrix | None:
    """The newest record as a table, by plane, operation and SDK."""
    found = newest(corpus, "e2b-compat")
    if found is None:
        return None
    cells: dict[str, dict[str, dict[str, OperationResult]]] = {}
    sdks: dict[str, None] = {}
    for one in found.entry.record.series:
        sdk, operation = str(one.dimensions["sdk"]), str(one.dimensions["operation"])
        sdks[sdk] = None
        plane = cells.setdefault(str(one.dimensions["plane"]), {})
        plane.setdefault(operation, {})[sdk] = _cell(one)
    planes = []
    for name, operations in cells.items():
        rows = [
            OperationRow(operation, [by.get(sdk) for sdk in sdks])
            for operation, by in sorted(operations.items(), key=lambda one: one[0].split(" ", 1)[1])
        ]
        scores = []
        for at, _ in enumerate(sdks):
            own = [cell for row in rows if (cell := row.cells[at])]
            scores.append(Score(sum(cell.works for cell in own), len(own)))
        planes.append(Plane(name, rows, scores))
    series = found.entry.record.series
    over_https = {str(one.dimensions["sdk"]): None for one in series if "over" in one.dimensions}
    return Matrix(found.entry, list(sdks), planes, list(over_https))


def latency(corpus: Corpus) -> RigRecord | None:
    return newest(corpus, "e2b-latency")

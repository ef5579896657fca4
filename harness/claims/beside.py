"""Where a published figure stands beside ours: the one mapping that charts, tables and essays use.

`beside.yaml` beside this file has it. Only figures that are known are placed: a directory of
results with published figures of its own needs no other ones.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from harness import paths
from harness.claims.published import SAFE, Figure
from harness.measure.record import Facts

FILE = paths.BESIDE


@dataclass(frozen=True)
class Placement:
    """A published figure, and the measured series that it stands beside.

    `per` names the metric by the number of whose samples ours is divided.
    """

    figure: Figure
    rig: str
    metric: str
    where: Facts
    per: str | None = None

    def fits(self, dimensions: Facts) -> bool:
        """Whether a series has these dimensions; one that it has no choice of does not matter."""
        return all(dimensions.get(name, value) == value for name, value in self.where.items())


@dataclass(frozen=True)
class Placements:
    """Every placement, the figures across whole charts, those of the comparison tables by row and
    kind of sandbox, those of storms, and by setting and rung those of creations over an API."""

    series: Sequence[Placement] = ()
    lines: Mapping[str, Figure] = field(default_factory=dict)
    kinds: Mapping[str, Mapping[str, Sequence[Figure]]] = field(default_factory=dict)
    storms: Sequence[Figure] = ()
    ladder: Mapping[str, Mapping[str, Figure]] = field(default_factory=dict)

    def of(
        self, rig: str, metric: str, where: Facts | None = None, per: str | None = None
    ) -> Sequence[Placement]:
        """The figures beside a metric of a rig, of those series that have these dimensions."""
        return [
            one
            for one in self.series
            if (one.rig, one.metric, one.per) == (rig, metric, per) and one.fits(where or {})
        ]

    def find(self, id: str) -> Placement | None:
        """Where a figure stands, by its id."""
        return next((one for one in self.series if one.figure.id == id), None)

    def kind(self, row: str, kind: str) -> Sequence[Figure]:
        """The figures in a cell of the comparison tables."""
        return self.kinds.get(row, {}).get(kind, ())


@functools.cache
def data(file: Path = FILE) -> Mapping[str, Any]:
    """The mapping as its file has it."""
    found: Mapping[str, Any] = yaml.load(file.read_text(encoding="utf-8"), SAFE)
    return found


def load(figures: Sequence[Figure], file: Path = FILE) -> Placements:
    """The placements of those figures that are known."""
    known = {one.id: one for one in figures}
    found = data(file)
    series = [
        Placement(**{**one, "figure": known[one["figure"]]})
        for one in found["series"]
        if one["figure"] in known
    ]
    kinds = {
        row: {kind: [known[id] for id in ids if id in known] for kind, ids in cells.items()}
        for row, cells in found["kinds"].items()
    }
    lines = {chart: known[id] for chart, id in found["lines"].items() if id in known}
    storms = [known[id] for id in found["storms"] if id in known]
    ladder = {
        setting: known_of
        for setting, ids in found["ladder"].items()
        if (known_of := {rung: known[id] for rung, id in ids.items() if id in known})
    }
    return Placements(series, lines, kinds, storms, ladder)

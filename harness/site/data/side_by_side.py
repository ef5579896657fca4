"""The same measurements on several machines, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.measure.record import Facts, Scalar
from harness.site.data.corpus import Corpus, RecordEntry
from harness.site.data.newest import newest
from harness.site.data.record_summary import SeriesSummary

MOST = 6
"""The most machines in a table, those measured last; the CSV has all."""
_OF_SYSTEM = ("substrate", "mechanism", "transport", "vmm", "rate")
"""Dimensions that name what was measured: each machine may have systems of its own."""
_OF_MACHINE = ("accelerator",)
"""Dimensions that a machine has rather than a measurement."""

Key = tuple[str, str, tuple[tuple[str, Scalar], ...]]
"""Metric, unit, and the dimensions that must be equal."""


@dataclass(frozen=True)
class Variant:
    """The newest series of one system on one machine."""

    system: str
    entry: RecordEntry
    series: SeriesSummary


@dataclass(frozen=True)
class SeriesRow:
    """A measurement, and its variants on each machine that made it, by the machine."""

    metric: str
    unit: str
    dimensions: Facts
    found: Mapping[str, Sequence[Variant]]

    @property
    def size(self) -> int:
        return sum(map(len, self.found.values()))


def tables(corpus: Corpus) -> Mapping[str, Sequence[SeriesRow]]:
    """For each rig, what two machines or more have measured, by whatever systems they have."""
    by_rig: dict[str, dict[Key, dict[str, list[Variant]]]] = {}
    for machine in corpus.machines if len(corpus.machines) > 1 else ():
        for rig, several in newest(corpus, machine).items():
            rows = by_rig.setdefault(rig, {})
            for entry, series in several:
                if series.n:
                    one = Variant(_system(series), entry, series)
                    rows.setdefault(_key(series), {}).setdefault(machine, []).append(one)
    return {
        rig: [
            SeriesRow(
                metric,
                unit,
                dict(dimensions),
                {id: sorted(several, key=lambda one: one.system) for id, several in found.items()},
            )
            for (metric, unit, dimensions), found in rows.items()
            if len(found) > 1
        ]
        for rig, rows in sorted(by_rig.items())
        if any(len(found) > 1 for found in rows.values())
    }


def _system(series: SeriesSummary) -> str:
    known = (series.dimensions.get(name) for name in _OF_SYSTEM)
    return ", ".join(str(value) for value in known if value is not None)


def _key(series: SeriesSummary) -> Key:
    own = sorted(
        item for item in series.dimensions.items() if item[0] not in (*_OF_SYSTEM, *_OF_MACHINE)
    )
    return series.metric, series.unit, tuple(own)

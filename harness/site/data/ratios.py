"""Cold starts as multiples of the same machine's floor, and what a kernel by choice is worth.

The ratio of two medians, with bounds from the bounds of both, which are at least as wide as those
of the ratio itself would be.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from harness.measure.record import Machine, Series
from harness.measure.statistics import Estimate
from harness.site.data import cold_start, figures
from harness.site.data.cold_start import FLOOR, HEADLINE, RUNGS, ColdStartRow
from harness.site.data.corpus import Corpus, RecordEntry

T = TypeVar("T")
_IN_MEMORY = "prewarm-pool"
"""In the names of the tiers whose sandboxes wait in memory."""


def ratio(ours: Estimate, base: Estimate) -> Estimate:
    """One estimate as a multiple of another, which is above 0."""
    low = ours.low / base.high if ours.low is not None and base.high else None
    high = ours.high / base.low if ours.high is not None and base.low else None
    return Estimate(ours.value / base.value, low, high)


@dataclass(frozen=True)
class Pair:
    """A row and the row that it is compared with, on one machine."""

    row: ColdStartRow
    base: ColdStartRow

    def ratio(self, rung: str) -> tuple[RecordEntry, Series, Estimate] | None:
        """The medians' ratio at a rung, one at a time, with the row's record and series."""
        ours, base = self.row.series(rung, 1), self.base.series(rung, 1)
        if not ours or not base:
            return None
        one, other = figures.get(ours[1], "p50"), figures.get(base[1], "p50")
        if not one or not other or not other.value:
            return None
        return (*ours, ratio(one, other))

    @property
    def rungs(self) -> Sequence[str]:
        """The rungs that both have."""
        return [rung for rung in RUNGS if self.ratio(rung)]

    @property
    def in_turns(self) -> bool:
        """Whether both were measured in turns, by one command."""
        sessions = {_session(one.entries.get(1)) for one in (self.row, self.base)}
        return len(sessions) == 1 and None not in sessions


@dataclass(frozen=True)
class OnMachine:
    """All pairs of one machine, and the rows of its floor."""

    machine: Machine
    pairs: Sequence[Pair]
    floors: Sequence[ColdStartRow] = ()

    @property
    def rungs(self) -> Sequence[str]:
        """The rungs that any of its rows has, in their order."""
        found = {rung for pair in self.pairs for rung in pair.rungs}
        found |= {rung for row in self.floors for rung in RUNGS if _median(row, rung)}
        return [rung for rung in RUNGS if rung in found]


def above_floor(corpus: Corpus) -> Sequence[OnMachine]:
    """Every substrate beside the floor of its own machine, for each machine that has a floor."""
    found = []
    for id, entries in corpus.machines.items():
        rows = cold_start.rows(corpus, id)
        floors = [row for row in rows if row.substrate == FLOOR and _median(row, HEADLINE)]
        if floors:
            machine = entries[-1].summary.machine
            found.append(OnMachine(machine, _usable(_above_floor(rows)), floors))
    return found


def of_kernels(corpus: Corpus) -> Sequence[OnMachine]:
    """Guests with a kernel by choice beside those with the distribution's, for each machine."""
    found = []
    for id, entries in corpus.machines.items():
        if pairs := _usable(_of_kernels(cold_start.rows(corpus, id))):
            found.append(OnMachine(entries[-1].summary.machine, pairs))
    return found


def _usable(pairs: Iterable[Pair]) -> Sequence[Pair]:
    return [pair for pair in pairs if pair.rungs]


def _median(row: ColdStartRow, rung: str) -> Estimate | None:
    found = row.series(rung, 1)
    return figures.get(found[1], "p50") if found else None


def floor_of(tier: str, floors: Mapping[str, T]) -> T | None:
    """The floor that a tier stands beside, of a machine's by their tiers: of the same tier, else of
    the one that waits for a request where this one does, in memory or not.

    A floor has no VMM of its own that could wait, and none that was booted and kept.
    """
    place = "durable-prewarm-pool" if _IN_MEMORY in tier else "durable-pool"
    return floors.get(tier) or floors.get(place)


def floors_on(corpus: Corpus, machine: str | None = None) -> Mapping[str, ColdStartRow]:
    """The rows of the floor on a machine, by their tiers."""
    rows = cold_start.rows(corpus, machine)
    return {row.tier: row for row in rows if row.substrate == FLOOR}


def _above_floor(rows: Sequence[ColdStartRow]) -> Iterator[Pair]:
    floors = {row.tier: row for row in rows if row.substrate == FLOOR}
    for row in rows:
        base = floor_of(row.tier, floors)
        if base and not row.is_control:
            yield Pair(row, base)


def _of_kernels(rows: Sequence[ColdStartRow]) -> Iterator[Pair]:
    plain = {(row.substrate, row.tier): row for row in rows if not row.kernel}
    for row in rows:
        if row.kernel and (base := plain.get((row.substrate, row.tier))):
            yield Pair(row, base)


def _session(entry: RecordEntry | None) -> str | None:
    """The session of a run that was one of several in turns: SESSION/ARM/ROUND."""
    named = entry and entry.record.command.env.get("COPPICE_INTERLEAVE")
    return named.partition("/")[0] if named else None

"""Picks the density records that pages show: one per substrate, sharing and N."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.measure.record import Series
from harness.measure.statistics import Estimate
from harness.site.data import figures
from harness.site.data.corpus import Corpus, Entry

RIG = "density"
NETWORKED = "{}, networked"
"""What a sharing is called where every sandbox had a card on a network."""
_ALONE = ("private", "mapped", "merged", "forked")
SHARINGS = (*_ALONE, *map(NETWORKED.format, _ALONE))
IDLE = "idle"
COUNTED = "to-be-had"
MIB = 1 << 20


@dataclass(frozen=True)
class Fleet:
    """One record: `n` sandboxes of a substrate were asked for in this sharing."""

    substrate: str
    sharing: str
    n: int
    entry: Entry

    def find(self, metric: str, **dimensions: str) -> tuple[Entry, Series] | None:
        found = self.entry.find(metric, **dimensions)
        return (self.entry, found) if found else None

    @property
    def reached(self) -> int:
        """How many came up."""
        found = self.entry.find("bring-up")
        return len(found.samples) if found else 0

    @property
    def change(self) -> Series | None:
        """The host's whole change at rest, all sandboxes together."""
        return self.entry.find("host-change", counted=COUNTED, work=IDLE)

    @property
    def worked(self) -> Series | None:
        """The same after every guest has written to its memory."""
        for one in self.entry.record.series:
            counted, work = one.dimensions.get("counted"), one.dimensions.get("work")
            if one.metric == "host-change" and counted == COUNTED and work != IDLE:
                return one
        return None

    @property
    def total(self) -> Estimate | None:
        change = self.change
        return figures.get(change, "p50") if change else None

    @property
    def each(self) -> Estimate | None:
        """The same, divided by those that came up."""
        total = self.total
        return figures.divided(total, self.reached) if total and self.reached else None

    @property
    def guest_bytes(self) -> int | None:
        """What each guest believes to have, from the checkpoint that it came from."""
        for image in self.entry.record.images:
            size = image.built_from.get("memory_mib")
            if isinstance(size, int):
                return size * MIB
        return None

    @property
    def parts(self) -> Sequence[Series]:
        """What one VMM and its guest hold at rest, one series for each kind of memory."""
        return [
            one
            for one in self.entry.record.series
            if one.metric == "footprint" and one.dimensions.get("work") == IDLE
        ]

    @property
    def wakes(self) -> Sequence[Series]:
        """What ran in an idle guest because time had passed, most often first."""
        found = [one for one in self.entry.record.series if one.metric == "wakes" and one.samples]
        return sorted(found, key=lambda one: -one.samples[0])


def fleets(corpus: Corpus) -> Sequence[Fleet]:
    """By sharing and N; the newest record of the full profile, else the newest of any."""
    chosen: dict[tuple[str, int, str], Fleet] = {}
    for entry in corpus.of_rig(RIG, corpus.machine):
        if not entry.brief.lines:
            continue
        dimensions = entry.brief.lines[0].dimensions
        substrate, sharing, n = (dimensions.get(one) for one in ("substrate", "sharing", "n"))
        if not isinstance(n, int):
            continue
        named = NETWORKED.format(sharing) if "network" in dimensions else str(sharing)
        fleet = Fleet(str(substrate), named, n, entry)
        key = (fleet.sharing, n, fleet.substrate)
        before = chosen.get(key)
        if before and before.entry.brief.profile == "full" != entry.brief.profile:
            continue
        chosen[key] = fleet
    order = {sharing: place for place, sharing in enumerate(SHARINGS)}
    return [chosen[key] for key in sorted(chosen, key=lambda key: (order.get(key[0], 9), *key[1:]))]


def largest(found: Sequence[Fleet], sharing: str) -> Fleet | None:
    """The fleet of most sandboxes in one sharing that has figures."""
    fits = [one for one in found if one.sharing == sharing and one.each]
    return max(fits, key=lambda one: one.reached) if fits else None

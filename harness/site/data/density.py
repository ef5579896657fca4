"""Selects the density records that pages show: one per substrate, sharing and N."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.measure.conditions import GUEST_KERNEL, TCG
from harness.measure.record import Series
from harness.measure.statistics import Estimate
from harness.site.data import figures
from harness.site.data.cold_start import FLOOR
from harness.site.data.corpus import Corpus, RecordEntry

RIG = "density"
NETWORKED = "{}, networked"
"""The name of a sharing in which every sandbox had a NIC on a network."""
_ALONE = ("private", "mapped", "merged", "forked", "started")
SHARINGS = (*_ALONE, *map(NETWORKED.format, _ALONE))
UNDER = "{}, under {}"
"""The name of a sharing under the accelerator that is not the better one of a machine."""
IDLE = "idle"
COUNTED = "to-be-had"
MIB = 1 << 20


@dataclass(frozen=True)
class MeasuredFleet:
    """One record of a fleet: `n` sandboxes of a substrate were requested with this sharing."""

    substrate: str
    sharing: str
    n: int
    entry: RecordEntry

    def find(self, metric: str, **dimensions: str) -> tuple[RecordEntry, Series] | None:
        found = self.entry.find(metric, **dimensions)
        return (self.entry, found) if found else None

    @property
    def is_floor(self) -> bool:
        """Whether it is of the reference substrate, in which no code of a user can run."""
        return self.substrate == FLOOR

    @property
    def reached(self) -> int:
        """How many came up."""
        found = self.entry.find("bring-up")
        return len(found.samples) if found else 0

    @property
    def change(self) -> Series | None:
        """Host memory used when idle, for all sandboxes together."""
        return self.entry.find("host-change", counted=COUNTED, work=IDLE)

    @property
    def worked(self) -> Series | None:
        """The same, after every guest has written to its memory."""
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
        """The same, divided by the number that came up."""
        total = self.total
        return figures.divided(total, self.reached) if total and self.reached else None

    @property
    def guest_bytes(self) -> int | None:
        """Each guest's memory size, from its checkpoint."""
        for image in self.entry.record.images:
            size = image.built_from.get("memory_mib")
            if isinstance(size, int):
                return size * MIB
        return None

    def parts(self, metric: str) -> Sequence[str]:
        """The kinds of memory that a metric of one idle VMM and its guest distinguishes."""
        return [
            str(one.dimensions["part"])
            for one in self.entry.record.series
            if one.metric == metric and one.dimensions.get("work") == IDLE and one.samples
        ]

    @property
    def wakes(self) -> Sequence[Series]:
        """Kernel functions that timers ran in an idle guest, most frequent first."""
        found = [one for one in self.entry.record.series if one.metric == "wakes" and one.samples]
        return sorted(found, key=lambda one: -one.samples[0])


def fleets(corpus: Corpus) -> Sequence[MeasuredFleet]:
    """By sharing and N; the newest record of the full profile, else the newest of any."""
    chosen: dict[tuple[str, int, str], MeasuredFleet] = {}
    both = _accelerators(corpus)
    for entry in corpus.of_rig(RIG, corpus.machine, any_kernel=True):
        if not entry.summary.series:
            continue
        dimensions = entry.summary.series[0].dimensions
        substrate, sharing, n = (dimensions.get(one) for one in ("substrate", "sharing", "n"))
        if not isinstance(n, int):
            continue
        named = NETWORKED.format(sharing) if "network" in dimensions else str(sharing)
        if kernel := dimensions.get(GUEST_KERNEL):
            named = f"{named}, {kernel} kernel"
        ran_by = _ran_by(entry)
        if ran_by == TCG and len(both[str(substrate), str(sharing)]) > 1:
            named = UNDER.format(named, ran_by.upper())
        fleet = MeasuredFleet(str(substrate), named, n, entry)
        key = (fleet.sharing, n, fleet.substrate)
        before = chosen.get(key)
        if before and before.entry.summary.profile == "full" != entry.summary.profile:
            continue
        chosen[key] = fleet
    order = {sharing: place for place, sharing in enumerate(SHARINGS)}
    return [chosen[key] for key in sorted(chosen, key=lambda key: (order.get(key[0], 9), *key[1:]))]


def _ran_by(entry: RecordEntry) -> str | None:
    return entry.summary.conditions(entry.summary.series[0]).accelerator


def _accelerators(corpus: Corpus) -> Mapping[tuple[str, str], set[str | None]]:
    """What ran the fleets of each substrate and sharing: memory under one accelerator is no memory
    under another, and no difference between two numbers of guests may come of that."""
    found: dict[tuple[str, str], set[str | None]] = defaultdict(set)
    for entry in corpus.of_rig(RIG, corpus.machine, any_kernel=True):
        if entry.summary.series:
            dimensions = entry.summary.series[0].dimensions
            key = str(dimensions.get("substrate")), str(dimensions.get("sharing"))
            found[key].add(_ran_by(entry))
    return found


def largest(found: Sequence[MeasuredFleet], sharing: str) -> MeasuredFleet | None:
    """The largest fleet of sandboxes of one sharing that has figures; the floor has none."""
    fits = [one for one in found if one.sharing == sharing and one.each and not one.is_floor]
    return max(fits, key=lambda one: one.reached) if fits else None

"""Selects the cold-start records that a page shows: one per substrate, tier and concurrency."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from harness.measure.conditions import GUEST_KERNEL
from harness.measure.record import Facts, Series
from harness.site.data.corpus import Corpus, RecordEntry, SeriesAt
from harness.site.data.record_summary import SeriesSummary

RIG = "cold-start"
RUNGS = ("object", "resumed", "first-reply", "first-exec", "first-touch")
TIERS = ("full", "durable-pool", "durable-prewarm-pool", "prewarm-pool")
CONCURRENCIES = (1, 10, 50)
HEADLINE = "first-reply"
REHEARSED, PROGRAM = "first-exec", "first-program"
NOOP = "noop"
FLOOR = "kvm-floor"
"""The substrate without a VMM and a guest kernel: what the host's hardware allows."""
WAITS = "waits"
DEFAULT_SUBSTRATE = "qemu"


@dataclass(frozen=True)
class ColdStartRow:
    """One tier of one substrate, with the chosen record for each concurrency measured.

    If no VMM waited for the request, `tier` has its origin as a suffix: spawned or forked.
    `kernel` names the guests' kernel where it was not the distribution's.
    """

    substrate: str
    tier: str
    entries: Mapping[int, RecordEntry]
    kernel: str = ""

    def series(self, metric: str, concurrency: int) -> tuple[RecordEntry, Series] | None:
        entry = self.entries.get(concurrency)
        wanted: Facts = {"substrate": self.substrate, "concurrency": concurrency}
        found = entry and entry.find(metric, **wanted)
        return (entry, found) if entry and found else None

    @property
    def is_control(self) -> bool:
        """Whether it is of no kind of sandbox that anything is claimed of."""
        return self.substrate in (NOOP, FLOOR)

    @property
    def label(self) -> str:
        """Its tier, and the guests' kernel where that was chosen."""
        return f"{self.tier}, {self.kernel} kernel" if self.kernel else self.tier

    def program(self, name: str) -> tuple[RecordEntry, Series] | None:
        """Cold starts whose first program was this one, which no rehearsal had run."""
        entry = self.entries.get(1)
        found = entry and entry.find(PROGRAM, substrate=self.substrate, program=name)
        return (entry, found) if entry and found else None

    @property
    def dimensions(self) -> Facts:
        """What distinguishes it, without `vmm` where neither name nor record states it."""
        tier, _, vmm = self.tier.rpartition("-") if self.tier not in TIERS else (self.tier, "", "")
        found = self.series(HEADLINE, 1)
        own = {"vmm": vmm} if vmm else {}
        return {"tier": tier, **own, **(found[1].dimensions if found else {})}

    @property
    def task(self) -> str | None:
        """The command that measures this tier: from its record, or else by naming convention."""
        for _, entry in sorted(self.entries.items()):
            return entry.summary.task
        return None if self.substrate == NOOP else f"mise run bench:{self.substrate}-{self.tier}"


def programs(rows: Sequence[ColdStartRow]) -> Sequence[str]:
    """The programs that were run first without a rehearsal, in the order of the records."""
    seen = (
        one.dimensions["program"]
        for row in rows
        for entry in row.entries.values()
        for one in entry.summary.series
        if one.metric == PROGRAM
    )
    return [str(name) for name in dict.fromkeys(seen)]


def _tier(series: SeriesSummary) -> str:
    """A series' tier; with a suffix when no VMM waited for the request."""
    tier, vmm = series.dimensions.get("tier"), series.dimensions.get("vmm", WAITS)
    return str(tier) if vmm == WAITS else f"{tier}-{vmm}"


def _age(one: SeriesAt) -> tuple[int, int]:
    return one[0], one[2].number


_Key = tuple[str, str, int, str]


def _key(one: SeriesSummary) -> _Key:
    facts = one.dimensions
    many = facts.get("concurrency")
    kernel = str(facts.get(GUEST_KERNEL) or "")
    return str(facts.get("substrate")), _tier(one), many if isinstance(many, int) else 0, kernel


def rows(corpus: Corpus, machine: str | None = None) -> Sequence[ColdStartRow]:
    """Every tier of every substrate measured on a machine (the corpus's own if none is named),
    those of `kvm-floor`, then `noop`.

    A tier without a record has a row too, so that gaps are visible, unless it is of `kvm-floor` or
    of a kernel by choice. The newest record of the full profile is chosen, else the newest of any,
    valid or not.
    """
    chosen: dict[_Key, RecordEntry] = {}
    here = machine or corpus.machine
    newest = corpus.newest(RIG, here, HEADLINE, include_empty=True, any_kernel=True)
    for _, entry, one in sorted(newest, key=_age):
        key = _key(one)
        before = chosen.get(key)
        if before and before.summary.profile == "full" != entry.summary.profile:
            continue
        chosen[key] = entry

    def row(substrate: str, tier: str, kernel: str = "") -> ColdStartRow:
        entries = {
            key[2]: entry
            for key, entry in chosen.items()
            if (key[0], key[1], key[3]) == (substrate, tier, kernel)
        }
        return ColdStartRow(substrate, tier, entries, kernel)

    substrates = sorted({key[0] for key in chosen} - {NOOP, FLOOR}) or [DEFAULT_SUBSTRATE]
    found = []
    for substrate in substrates:
        own = {(key[1], key[3]) for key in chosen if key[0] == substrate}
        found += [row(substrate, tier) for tier in TIERS]
        found += [row(substrate, *one) for one in _others(own)]
    of_floor = sorted({key[1] for key in chosen if key[0] == FLOOR}, key=_place)
    found += [row(FLOOR, tier) for tier in of_floor]
    return [*found, _noop(sorted({key[1] for key in chosen if key[0] == NOOP}), row)]


def _place(tier: str) -> tuple[int, str]:
    """A tier's place: those with a name first, in their order."""
    return (TIERS.index(tier) if tier in TIERS else len(TIERS)), tier


def _others(measured: set[tuple[str, str]]) -> Sequence[tuple[str, str]]:
    """The tiers and kernels of a substrate that have no row anyway, in the order of the rows."""
    left = measured - {(tier, "") for tier in TIERS}
    return sorted(left, key=lambda one: (one[1], *_place(one[0])))


def _noop(tiers: Sequence[str], row: Callable[[str, str], ColdStartRow]) -> ColdStartRow:
    """One row for the cost of the harness, for the headline's tier if that was measured."""
    preferred = "durable-prewarm-pool"
    return row(NOOP, preferred if preferred in tiers or not tiers else tiers[0])

"""Selects the cold-start records that a page shows: one per substrate, tier and concurrency."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
WAITS = "waits"
DEFAULT_SUBSTRATE = "qemu"


@dataclass(frozen=True)
class ColdStartRow:
    """One tier of one substrate, with the chosen record for each concurrency measured.

    If no VMM waited for the request, `tier` has its origin as a suffix: spawned or forked.
    """

    substrate: str
    tier: str
    entries: Mapping[int, RecordEntry]

    def series(self, metric: str, concurrency: int) -> tuple[RecordEntry, Series] | None:
        entry = self.entries.get(concurrency)
        wanted: Facts = {"substrate": self.substrate, "concurrency": concurrency}
        found = entry and entry.find(metric, **wanted)
        return (entry, found) if entry and found else None

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


def rows(corpus: Corpus) -> Sequence[ColdStartRow]:
    """Every tier of every substrate measured on the corpus's machine, then `noop`.

    A tier without a record has a row too, so that gaps are visible. The newest record of the full
    profile is chosen, else the newest of any, valid or not.
    """
    chosen: dict[tuple[str, str, int], RecordEntry] = {}
    newest = corpus.newest(RIG, corpus.machine, HEADLINE, include_empty=True)
    for _, entry, one in sorted(newest, key=_age):
        key = (
            str(one.dimensions.get("substrate")),
            _tier(one),
            one.dimensions.get("concurrency"),
        )
        before = chosen.get(key)  # type: ignore[arg-type]
        if before and before.summary.profile == "full" != entry.summary.profile:
            continue
        chosen[key] = entry  # type: ignore[index]

    def row(substrate: str, tier: str) -> ColdStartRow:
        return ColdStartRow(
            substrate,
            tier,
            {key[2]: e for key, e in chosen.items() if key[:2] == (substrate, tier)},
        )

    substrates = sorted({key[0] for key in chosen} - {NOOP}) or [DEFAULT_SUBSTRATE]
    found = []
    for substrate in substrates:
        others = sorted({key[1] for key in chosen if key[0] == substrate} - set(TIERS))
        found += [row(substrate, tier) for tier in (*TIERS, *others)]
    return [*found, _noop(sorted({key[1] for key in chosen if key[0] == NOOP}), row)]


def _noop(tiers: Sequence[str], row: object) -> ColdStartRow:
    """One row for the cost of the harness, for the headline's tier if that was measured."""
    preferred = "durable-prewarm-pool"
    tier = preferred if preferred in tiers or not tiers else tiers[0]
    assert callable(row)
    found = row(NOOP, tier)
    assert isinstance(found, ColdStartRow)
    return found

"""Selects from the compare records what the comparison page shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.measure.record import Facts, Scalar, Series
from harness.measure.statistics import Estimate, estimate
from harness.site.data import figures, ratios, record_summary
from harness.site.data.cold_start import FLOOR
from harness.site.data.corpus import Corpus, RecordEntry

RIG = "compare"
BASELINE = ("qemu", "durable-prewarm-pool")
"""What the others are compared with: a microVM that was restored and frozen."""


@dataclass(frozen=True)
class ComparedSubstrate:
    """A substrate in one tier, with the newest record of each of its measurements."""

    substrate: str
    tier: str
    corpus: Corpus

    @property
    def selector(self) -> dict[str, Scalar]:
        return {"substrate": self.substrate, "tier": self.tier}

    def find(self, metric: str, **dimensions: Scalar) -> tuple[RecordEntry, Series] | None:
        """The series with the most samples in any compare record."""
        return newest(self.corpus, metric, **self.selector, **dimensions)

    def flag(self, metric: str) -> tuple[RecordEntry, bool] | None:
        """A yes-or-no fact read from inside the sandbox."""
        found = self.find(metric)
        return (found[0], bool(found[1].samples[0])) if found and found[1].samples else None

    @property
    def fleet(self) -> tuple[RecordEntry, Series, int] | None:
        """Host memory used by the largest fleet, and the fleet's size."""
        best: tuple[RecordEntry, Series, int] | None = None
        for entry, one in _all(self.corpus, "host-change", **self.selector):
            up = one.dimensions.get("up")
            if isinstance(up, int) and one.samples and (best is None or up >= best[2]):
                best = (entry, one, up)
        return best

    @property
    def capacity(self) -> tuple[RecordEntry, Series, Estimate] | None:
        """An estimate of how many sandboxes fit in this machine's memory.

        Uses the slope between the smallest and the largest fleet of a record, or the average of
        the only fleet.
        """
        fleet = self.fleet
        if not fleet:
            return None
        entry, series, up = fleet
        small = min(_fleets(entry, self.selector), key=lambda one: one[1])
        below = figures.get(small[0], "p50") if small[1] < up else None
        took = figures.get(series, "p50")
        more = took.value - (below.value if below else 0) if took else 0
        if more <= 0:
            return None
        many = up - (small[1] if below else 0)
        fits = entry.summary.machine.memory_bytes * many / more
        return entry, series, Estimate(fits, None, None)

    @property
    def reachability(self) -> tuple[RecordEntry, str] | None:
        """What it reached under a policy that allows one address, as text; or that it has no NIC.

        None if it was not tested.
        """
        for entry, one in _all(self.corpus, "reached", **self.selector, policy="one"):
            if one.samples:
                tried = [
                    (str(other.dimensions["target"]), bool(other.samples[0]))
                    for other in entry.record.series
                    if other.metric == "reached"
                    and other.samples
                    and record_summary.fits(other.dimensions, self.selector | {"policy": "one"})
                ]
                gone = [name for name, reached in tried if reached and name != "allowed"]
                return (
                    entry,
                    f"also reaches {', '.join(gone)}" if gone else "only permitted traffic passes",
                )
        cards = self.find("cards")
        if not cards:
            return None
        none = cards[1].samples[0] == 0
        return cards[0], "no NIC" if none else "not tested"

    def part(self, metric: str) -> tuple[RecordEntry, Series, int] | None:
        """Another memory metric of the same fleet."""
        fleet = self.fleet
        found = fleet[0].find(metric, **self.selector, up=fleet[2]) if fleet else None
        return (fleet[0], found, fleet[2]) if fleet and found else None

    def ratio_to_baseline(self, rung: str) -> tuple[RecordEntry, Series, Estimate] | None:
        """The ratio to the frozen microVM in the same record, one start at a time."""
        found = self.find(rung, concurrency=1)
        return _ratio(found, found and found[0].find(rung, **_named(*BASELINE), concurrency=1))

    def ratio_to_floor(self, rung: str) -> tuple[RecordEntry, Series, Estimate] | None:
        """The ratio to the floor of this machine, one start at a time: of the same record, else of
        the newest cold start of the floor."""
        found = self.find(rung, concurrency=1)
        if not found or self.is_floor:
            return None
        tiers = {
            str(one.dimensions["tier"]): one
            for one in found[0].record.series
            if one.metric == rung and one.dimensions.get("substrate") == FLOOR
        }
        here = ratios.floor_of(self.tier, {tier: tier for tier in tiers})
        if here:
            beside = found[0].find(rung, **_named(FLOOR, here), concurrency=1)
            return _ratio(found, beside)
        row = ratios.floor_of(self.tier, ratios.floors_on(self.corpus))
        other = row.series(rung, 1) if row else None
        return _ratio(found, other and other[1])

    @property
    def is_floor(self) -> bool:
        """Whether it is the reference substrate without a kernel."""
        return self.substrate == FLOOR


def _named(substrate: str, tier: str) -> dict[str, Scalar]:
    return {"substrate": substrate, "tier": tier}


def _ratio(
    found: tuple[RecordEntry, Series] | None, other: Series | None
) -> tuple[RecordEntry, Series, Estimate] | None:
    """The ratio of a series' median to another's, with the series and its record."""
    if not found or not other or other is found[1]:
        return None
    ours, base = figures.get(found[1], "p50"), figures.get(other, "p50")
    if not ours or not base or not base.value:
        return None
    return (*found, ratios.ratio(ours, base))


@dataclass(frozen=True)
class PairedRun:
    """A container paired with plain runc in the same bundle; `ratio` is the median ratio of the
    pairs."""

    entry: RecordEntry
    ours: Series
    plain: Series
    ratio: Estimate


def paired_runs(corpus: Corpus) -> Sequence[PairedRun]:
    """Every paired container, from the best record that has it."""
    names = dict.fromkeys(
        str(one.dimensions["substrate"])
        for entry in corpus.of_rig(RIG, corpus.machine)
        for one in entry.summary.series
        if one.metric == "paired-run"
    )
    found = []
    for name in names:
        best = newest(corpus, "paired-run", substrate=name)
        plain = best and best[0].find("plain-run", beside=name)
        if best and plain and len(plain.samples) == len(best[1].samples):
            ratios = [a / b for a, b in zip(best[1].samples, plain.samples, strict=True)]
            found.append(PairedRun(best[0], best[1], plain, estimate(ratios, 50)))
    return found


def _fleets(entry: RecordEntry, selector: Facts) -> Iterator[tuple[Series, int]]:
    """Host memory used by each fleet of a substrate, and the fleet's size."""
    for one in entry.record.series:
        up = one.dimensions.get("up")
        fleet = one.metric == "host-change" and record_summary.fits(one.dimensions, selector)
        if fleet and one.samples and isinstance(up, int):
            yield one, up


def _all(corpus: Corpus, metric: str, **dimensions: Scalar) -> Iterator[tuple[RecordEntry, Series]]:
    for entry in corpus.of_rig(RIG, corpus.machine):
        if not any(series.metric == metric for series in entry.summary.series):
            continue
        for one in entry.record.series:
            if one.metric == metric and record_summary.fits(one.dimensions, dimensions):
                yield entry, one


def newest(corpus: Corpus, metric: str, **dimensions: Scalar) -> tuple[RecordEntry, Series] | None:
    """The series with the most samples, valid records first, newest of equals."""
    chosen: tuple[RecordEntry, Series] | None = None
    best = (False, 1)
    for entry, one in _all(corpus, metric, **dimensions):
        rank = (entry.summary.validity.status == "valid", len(one.samples))
        if one.samples and rank >= best:
            chosen, best = (entry, one), rank
    return chosen


def compared(corpus: Corpus) -> Sequence[ComparedSubstrate]:
    """Every substrate and tier in the compare records, in their order."""
    found: dict[tuple[str, str], None] = {}
    for entry in corpus.of_rig(RIG, corpus.machine):
        for one in entry.summary.series:
            if "tier" in one.dimensions:
                found[str(one.dimensions["substrate"]), str(one.dimensions["tier"])] = None
    return [ComparedSubstrate(substrate, tier, corpus) for substrate, tier in found]


def not_measured(corpus: Corpus) -> Sequence[tuple[str, str]]:
    """What the newest record could not measure, with the reason."""
    entries = corpus.of_rig(RIG, corpus.machine)
    if not entries:
        return []
    missing = (one for one in entries[-1].summary.series if one.metric == "measured-here")
    found = []
    for one in missing:
        many = one.dimensions.get("concurrency")
        who = f"{one.dimensions['substrate']}, {one.dimensions['tier']}"
        found.append((f"{who}, {many} at once" if many else who, str(one.dimensions["reason"])))
    return found

"""Selects the network and policy records that a page shows, and compares their series.

The paths are measured in turn, in passes. The difference or ratio of two paths is the median over
the passes, with an order-statistic interval, so that drift affects both alike.
"""

from __future__ import annotations

import statistics as plain
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.measure.record import Scalar, Series
from harness.measure.statistics import Estimate, estimate
from harness.site.data.corpus import Corpus, RecordEntry

PATHS = ("loopback", "veth", "bridge", "policy", "microvm")
CORES = (1, 2)


@dataclass(frozen=True)
class RigRecord:
    """The record of one rig that a page shows."""

    entry: RecordEntry

    def find(self, metric: str, **dimensions: Scalar) -> tuple[RecordEntry, Series] | None:
        """The series with these dimensions that has samples or failures."""
        found = self.entry.find(metric, **dimensions)
        return (self.entry, found) if found else None

    def values(self, name: str) -> Sequence[Scalar]:
        """Every value of a dimension, in the order of the record."""
        seen = (one.dimensions.get(name) for one in self.entry.record.series)
        return [one for one in dict.fromkeys(seen) if one is not None]

    def total(self, metric: str, **dimensions: Scalar) -> int:
        """The sum of a series of counts."""
        found = self.find(metric, **dimensions)
        return round(sum(found[1].samples)) if found else 0


def newest(corpus: Corpus, rig: str) -> RigRecord | None:
    """The best record on this machine, by validity and profile, then the newest."""
    entries = corpus.of_rig(rig, corpus.machine)
    return RigRecord(best_of(entries)) if entries else None


def best_of(entries: Sequence[RecordEntry]) -> RecordEntry:
    """The newest of the valid records with the full profile; of less if there is none."""
    valid = [one for one in entries if one.summary.validity.status == "valid"] or entries
    full = [one for one in valid if one.summary.profile == "full"]
    return (full or valid)[-1]


def _passes(series: Series, count: int) -> Sequence[float] | None:
    """The median of each pass; None unless all passes have equally many samples."""
    each, rest = divmod(len(series.samples), count) if count else (0, 1)
    if rest or not each:
        return None
    return [plain.median(series.samples[at * each : (at + 1) * each]) for at in range(count)]


def compared(
    one: Series, other: Series, passes: int, how: Callable[[float, float], float]
) -> Estimate | None:
    """`how` applied to two series pass by pass: median and interval; None if passes are unequal."""
    found = _by_pass(one, other, passes, how)
    return estimate(found, 50) if found else None


def _by_pass(
    one: Series, other: Series, passes: int, how: Callable[[float, float], float]
) -> Sequence[float]:
    left, right = _passes(one, passes), _passes(other, passes)
    if left is None or right is None:
        return ()
    return [how(a, b) for a, b in zip(left, right, strict=True)]


@dataclass(frozen=True)
class PolicyCost:
    """What policy adds to a round trip on `cores` cores, and the round trip's ratio to loopback."""

    entry: RecordEntry
    series: Series
    cores: int
    added: Estimate | None
    passes: Sequence[Estimate]
    """The smallest and largest value of a pass, if there are too few for an interval."""
    against_loopback: Estimate | None

    @property
    def measurable(self) -> bool:
        """Whether the interval, or the range of few passes, lies on one side of zero."""
        if self.added is None:
            return False
        low, high = self.added.low, self.added.high
        if self.passes:
            low, high = self.passes[0].value, self.passes[-1].value
        return low is not None and high is not None and not low <= 0 <= high


def costs(rtt: RigRecord) -> Sequence[PolicyCost]:
    found = []
    for cores in CORES:
        series = {path: rtt.entry.find("rtt", path=path, cores=cores, tool="exchange")
                  for path in ("loopback", "bridge", "policy")}  # fmt: skip
        counted = rtt.entry.find("rtt", path="policy", cores=cores, tool="netperf", statistic="p50")
        loop, bridge, policy = series["loopback"], series["bridge"], series["policy"]
        if not (loop and bridge and policy and counted):
            continue
        passes = len(counted.samples) + len(counted.failures)
        each = sorted(_by_pass(policy, bridge, passes, lambda a, b: a - b))
        added = estimate(each, 50) if each else None
        few = (each[0], each[-1]) if added and not added.bounded else ()
        found.append(
            PolicyCost(
                rtt.entry,
                policy,
                cores,
                added,
                [Estimate(value, None, None) for value in few],
                compared(policy, loop, passes, lambda a, b: a / b),
            )
        )
    return found


def share_of_loopback(measured: RigRecord, cores: int, streams: int) -> Estimate | None:
    """The throughput with policy divided by loopback's, pass by pass."""
    by: dict[str, Scalar] = {"cores": cores, "streams": streams}
    policy = measured.entry.find("throughput", path="policy", **by)
    loop = measured.entry.find("throughput", path="loopback", **by)
    if not policy or not loop:
        return None
    return compared(policy, loop, len(policy.samples), lambda a, b: a / b)

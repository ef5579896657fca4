"""Picks the network and policy records that a page shows, and works out what compares their series.

The ways of the ladder take turns in passes. A difference or ratio of two of them is the median of
what each pass gives, with the order-statistic interval of the passes: what drifts drifts in both.
"""

from __future__ import annotations

import statistics as plain
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from harness.measure.record import Scalar, Series
from harness.measure.statistics import Estimate, estimate
from harness.site.charts.scaling import Curve, Point
from harness.site.data import figures
from harness.site.data.corpus import Corpus, Entry

PATHS = ("loopback", "veth", "bridge", "policy", "microvm")
CORES = (1, 2)


@dataclass(frozen=True)
class Measured:
    """The record of one rig that a page shows."""

    entry: Entry

    def find(self, metric: str, **dimensions: Scalar) -> tuple[Entry, Series] | None:
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


def newest(corpus: Corpus, rig: str) -> Measured | None:
    """The newest record of the full profile on this machine, else the newest of any."""
    entries = corpus.of_rig(rig, corpus.machine)
    full = [one for one in entries if one.brief.profile == "full"]
    chosen = (full or entries)[-1:]
    return Measured(chosen[0]) if chosen else None


def _passes(series: Series, count: int) -> Sequence[float] | None:
    """The median of each pass, where every pass gave as many samples."""
    each, rest = divmod(len(series.samples), count) if count else (0, 1)
    if rest or not each:
        return None
    return [plain.median(series.samples[at * each : (at + 1) * each]) for at in range(count)]


def compared(
    one: Series, other: Series, passes: int, how: Callable[[float, float], float]
) -> Estimate | None:
    """`how` of two series pass by pass: its median and interval; None where passes are unequal."""
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
class Cost:
    """What policy adds to a round trip on so many cores, and the round trip against loopback's."""

    entry: Entry
    series: Series
    cores: int
    added: Estimate | None
    passes: Sequence[Estimate]
    """The least and the most that a pass says, where they are too few for an interval."""
    against_loopback: Estimate | None


def costs(rtt: Measured) -> Sequence[Cost]:
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
            Cost(
                rtt.entry,
                policy,
                cores,
                added,
                [Estimate(value, None, None) for value in few],
                compared(policy, loop, passes, lambda a, b: a / b),
            )
        )
    return found


def share_of_loopback(measured: Measured, cores: int, streams: int) -> Estimate | None:
    """The throughput under policy as a share of loopback's, pass by pass."""
    by: dict[str, Scalar] = {"cores": cores, "streams": streams}
    policy = measured.entry.find("throughput", path="policy", **by)
    loop = measured.entry.find("throughput", path="loopback", **by)
    if not policy or not loop:
        return None
    return compared(policy, loop, len(policy.samples), lambda a, b: a / b)


def curve(measured: Measured, label: str, metric: str, **dimensions: Scalar) -> Curve:
    """A metric against `n`, of the series with these dimensions; n of 0 has no place on it."""
    points = []
    for one in measured.entry.record.series:
        n = one.dimensions.get("n")
        fits = all(one.dimensions.get(name) == value for name, value in dimensions.items())
        value = figures.get(one, "p50")
        if one.metric == metric and fits and isinstance(n, int) and n > 0 and value:
            points.append(Point(n, value))
    status = measured.entry.brief.validity.status
    return Curve(label, points, "" if status == "valid" else status)

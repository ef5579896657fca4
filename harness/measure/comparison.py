"""Whether two sets of samples differ: exact permutation tests on ranks, and thresholds beside them.

Without input or output, and of the standard library alone, so that a host which measures can also
compare. Ranks make the test indifferent to the shape of a distribution and to its tail; under the
hypothesis that nothing changed, every assignment of the ranks is as likely as any other, and how
many of them are as extreme as the one seen is counted, not drawn. Significance alone is no verdict:
a difference must also be as large as the thresholds say.
"""

from __future__ import annotations

import bisect
import enum
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.measure.statistics import Estimate, estimate, percentile, ratio_of_medians

_EXACT = 100
"""Samples of both sides together up to which assignments are counted exactly."""
_EXACT_PAIRS = 60


class Outcome(enum.StrEnum):
    """What a comparison says of the second set."""

    SAME = "no difference"
    BETTER = "better"
    WORSE = "worse"
    TOO_FEW = "too few samples"


@dataclass(frozen=True)
class Thresholds:
    """A difference counts when p is below `alpha` and the medians differ by at least both others.

    `absolute` is in the unit of the samples, `relative` a share of the first median.
    """

    alpha: float = 0.01
    relative: float = 0.05
    absolute: float = 0.0


@dataclass(frozen=True)
class Comparison:
    """Two sets: their medians, the ratio of the second to the first, and whether they differ.

    `pairs` counts interleaved rounds, None where the sets are independent.
    """

    before: Estimate
    after: Estimate
    ratio: Estimate
    p: float
    n: tuple[int, int]
    pairs: int | None
    outcome: Outcome

    @property
    def difference(self) -> float:
        """Of the medians, in the unit of the samples."""
        return self.after.value - self.before.value


def compare(
    before: Sequence[float],
    after: Sequence[float],
    better: str = "lower",
    thresholds: Thresholds = Thresholds(),
) -> Comparison:
    """Two independent sets of samples. ValueError when one is empty."""
    p = rank_sum(before, after)
    ratio = ratio_of_medians(before, after)
    found = estimate(before, 50), estimate(after, 50)
    # The least p that so few could give must be able to pass.
    able = 2 / math.comb(len(before) + len(after), len(before)) <= thresholds.alpha
    outcome = _outcome(*found, p, able, better, thresholds)
    return Comparison(*found, ratio, p, (len(before), len(after)), None, outcome)


def compare_paired(
    before: Sequence[Sequence[float]],
    after: Sequence[Sequence[float]],
    better: str = "lower",
    thresholds: Thresholds = Thresholds(),
) -> Comparison:
    """Rounds that took turns, each with its samples: one pair of medians a round.

    Samples of one round resemble one another more than those of the next, so a round counts once;
    what drifts between rounds drifts in both. Raises ValueError unless the rounds pair up.
    """
    if len(before) != len(after) or not before:
        raise ValueError(f"{len(before)} rounds do not pair with {len(after)}")
    left = [estimate(one, 50).value for one in before]
    right = [estimate(one, 50).value for one in after]
    ratios = [b / a if a else math.inf for a, b in zip(left, right, strict=True)]
    p = signed_rank([b - a for a, b in zip(left, right, strict=True)])
    found = estimate(left, 50), estimate(right, 50)
    able = 2 / 2 ** len(left) <= thresholds.alpha
    outcome = _outcome(*found, p, able, better, thresholds)
    sizes = sum(map(len, before)), sum(map(len, after))
    return Comparison(*found, estimate(ratios, 50), p, sizes, len(left), outcome)


def _outcome(
    before: Estimate, after: Estimate, p: float, able: bool, better: str, limits: Thresholds
) -> Outcome:
    if not able:
        return Outcome.TOO_FEW
    change = after.value - before.value
    if (
        p >= limits.alpha
        or not change
        or abs(change) < limits.absolute
        or abs(change) < limits.relative * abs(before.value)
    ):
        return Outcome.SAME
    return Outcome.BETTER if (change < 0) == (better == "lower") else Outcome.WORSE


def _doubled_ranks(values: Sequence[float]) -> list[int]:
    """Twice the rank of each value, counted from 1; equal values share the mean of their ranks."""
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0] * len(values)
    start = 0
    while start < len(order):
        end = start
        while end + 1 < len(order) and values[order[end + 1]] == values[order[start]]:
            end += 1
        for place in order[start : end + 1]:
            ranks[place] = start + end + 2
        start = end + 1
    return ranks


def rank_sum(one: Sequence[float], other: Sequence[float]) -> float:
    """Two-sided p of the permutation test on ranks (Wilcoxon, Mann and Whitney).

    Exact, ties included, up to 100 samples together; beyond by the permutation distribution's own
    mean and variance, which ties enter, and the normal law that it tends to.
    """
    if not one or not other:
        raise ValueError("nothing to compare with an empty set")
    ranks = _doubled_ranks([*one, *other])
    chosen, total = len(one), len(ranks)
    seen = sum(ranks[:chosen])
    middle = chosen * sum(ranks) / total
    if total <= _EXACT:
        return _exact_sum(ranks, chosen, abs(seen - middle))
    mean = sum(ranks) / total
    spread = sum((rank - mean) ** 2 for rank in ranks) / (total - 1)
    variance = chosen * (total - chosen) / total * spread
    return _two_sided(abs(seen - middle) - 1, variance)


def _exact_sum(ranks: Sequence[int], chosen: int, distance: float) -> float:
    """The share of choices of so many ranks whose sum is at least `distance` from the middle.

    Counted by a generating function whose coefficients stand side by side in one large integer.
    """
    width = len(ranks)  # bits: no count exceeds 2 to the number of ranks
    least = min(ranks)
    by_size = [1] + [0] * chosen
    for place, rank in enumerate(ranks):
        for size in range(min(place + 1, chosen), 0, -1):
            by_size[size] += by_size[size - 1] << (width * (rank - least))
    middle = chosen * sum(ranks) / len(ranks) - chosen * least
    counts = _blocks(by_size[chosen], width)
    extreme = sum(n for at, n in enumerate(counts) if abs(at - middle) >= distance - 1e-9)
    return extreme / math.comb(len(ranks), chosen)


def _blocks(number: int, width: int) -> Sequence[int]:
    """The coefficients of a packed polynomial, lowest first."""
    size = (number.bit_length() + width - 1) // width
    text = f"{number:0{size * width}b}"
    return [int(text[at - width : at], 2) for at in range(len(text), 0, -width)]


def signed_rank(differences: Sequence[float]) -> float:
    """Two-sided p of the permutation test on signed ranks (Wilcoxon): signs are exchanged.

    A difference of 0 keeps its rank and counts for neither side. Exact up to 60 pairs.
    """
    if not differences:
        raise ValueError("no pair to compare")
    ranks = _doubled_ranks([abs(one) for one in differences])
    used = [rank for rank, one in zip(ranks, differences, strict=True) if one]
    seen = sum(rank for rank, one in zip(ranks, differences, strict=True) if one > 0)
    middle = sum(used) / 2
    distance = abs(seen - middle)
    if len(used) > _EXACT_PAIRS:
        return _two_sided(distance - 1, sum(rank**2 for rank in used) / 4)
    ways = [1] + [0] * sum(used)
    reached = 0
    for rank in used:
        for at in range(reached, -1, -1):
            ways[at + rank] += ways[at]
        reached += rank
    extreme = sum(many for at, many in enumerate(ways) if abs(at - middle) >= distance - 1e-9)
    return float(extreme / 2 ** len(used))


def _two_sided(distance: float, variance: float) -> float:
    if variance <= 0 or distance <= 0:
        return 1.0
    return math.erfc(distance / math.sqrt(2 * variance))  # exact far out, where 1 - cdf is 0


FENCE_RUNS = 8
"""Earlier changes from which a series' own noise is known."""


def changes(medians: Sequence[Estimate], better: str, relative: float = 0.10) -> list[Outcome]:
    """For each run of a series after the first, in order: how it differs from the one before.

    Runs of one series differ by more than their samples tell: other boots, other neighbours. So a
    change counts when the two intervals have nothing in common, it is at least `relative`, and,
    once FENCE_RUNS earlier changes are known, it lies beyond their quartile by three times their
    spread (Q3 + 3 IQR of the absolute logarithms, as rustc-perf does).
    """
    found: list[Outcome] = []
    ordered: list[float] = []
    for old, new in itertools.pairwise(medians):
        if min(old.value, new.value) <= 0:
            found.append(Outcome.SAME)
            continue
        size = abs(math.log(new.value / old.value))
        apart = _apart(old, new) and size >= math.log1p(relative)
        if apart and len(ordered) >= FENCE_RUNS:
            low, high = percentile(ordered, 25), percentile(ordered, 75)
            apart = size > high + 3 * (high - low)
        bisect.insort(ordered, size)
        if not apart:
            found.append(Outcome.SAME)
        else:
            improved = (new.value < old.value) == (better == "lower")
            found.append(Outcome.BETTER if improved else Outcome.WORSE)
    return found


def _apart(one: Estimate, other: Estimate) -> bool:
    if one.low is None or one.high is None or other.low is None or other.high is None:
        return False
    return one.high < other.low or other.high < one.low

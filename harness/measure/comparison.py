"""Whether two sets of samples differ, by exact permutation tests on ranks and by thresholds.

Pure functions on the standard library alone, so that a measuring host can also compare. Ranks make
the test independent of a distribution's shape and robust to its tail. Under the null hypothesis
every assignment of the ranks is equally likely; the assignments as extreme as the observed one are
counted exactly, not sampled. Significance alone is not enough: a difference must also exceed the
thresholds.
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
"""Up to this many samples of both sides together, assignments are counted exactly."""
_EXACT_PAIRS = 60


class Outcome(enum.StrEnum):
    """How the second set differs from the first."""

    SAME = "no difference"
    BETTER = "better"
    WORSE = "worse"
    TOO_FEW = "too few samples"


@dataclass(frozen=True)
class Thresholds:
    """A difference counts when p is below `alpha` and the medians differ by at least the others.

    `absolute` is in the samples' unit, `relative` a share of the first median.
    """

    alpha: float = 0.01
    relative: float = 0.05
    absolute: float = 0.0


@dataclass(frozen=True)
class Comparison:
    """The medians of two sets, the ratio of the second to the first, and whether they differ.

    `n` is the number of samples of each set. `pairs` is the number of interleaved rounds; None for
    independent sets.
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
        """The second median minus the first, in the samples' unit."""
        return self.after.value - self.before.value


def compare(
    before: Sequence[float],
    after: Sequence[float],
    better: str = "lower",
    thresholds: Thresholds = Thresholds(),
) -> Comparison:
    """Compare two independent sets of samples. ValueError when one is empty."""
    p = rank_sum(before, after)
    ratio = ratio_of_medians(before, after)
    found = estimate(before, 50), estimate(after, 50)
    # With very few samples even the smallest possible p exceeds alpha.
    able = 2 / math.comb(len(before) + len(after), len(before)) <= thresholds.alpha
    outcome = _outcome(*found, p, able, better, thresholds)
    return Comparison(*found, ratio, p, (len(before), len(after)), None, outcome)


def compare_paired(
    before: Sequence[Sequence[float]],
    after: Sequence[Sequence[float]],
    better: str = "lower",
    thresholds: Thresholds = Thresholds(),
) -> Comparison:
    """Compare interleaved rounds by one pair of medians per round.

    Samples of one round are more alike than those of different rounds, so a round counts once.
    Drift between rounds affects both sides. Raises ValueError unless both have equally many rounds.
    """
    if len(before) != len(after) or not before:
        raise ValueError(f"{len(before)} rounds do not pair with {len(after)}")
    left = [estimate(samples, 50).value for samples in before]
    right = [estimate(samples, 50).value for samples in after]
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
    """Twice the rank of each value, from 1; ties get the mean of their ranks (hence twice)."""
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


def rank_sum(before: Sequence[float], after: Sequence[float]) -> float:
    """Two-sided p of the rank-sum permutation test (Wilcoxon, Mann and Whitney).

    Exact, ties included, for up to 100 samples together. Above, it is the normal approximation with
    the mean and variance of the permutation distribution, corrected for ties.
    """
    if not before or not after:
        raise ValueError("cannot compare with an empty set")
    ranks = _doubled_ranks([*before, *after])
    chosen, total = len(before), len(ranks)
    seen = sum(ranks[:chosen])
    middle = chosen * sum(ranks) / total
    if total <= _EXACT:
        return _exact_sum(ranks, chosen, abs(seen - middle))
    mean = sum(ranks) / total
    spread = sum((rank - mean) ** 2 for rank in ranks) / (total - 1)
    variance = chosen * (total - chosen) / total * spread
    return _two_sided(abs(seen - middle) - 1, variance)


def _exact_sum(ranks: Sequence[int], chosen: int, distance: float) -> float:
    """The share of subsets of `chosen` ranks whose sum is at least `distance` from the mean.

    Counted with a generating function, whose coefficients are packed into one large integer.
    """
    width = len(ranks)  # bits per coefficient: no count exceeds 2 ** len(ranks)
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
    """Two-sided p of the signed-rank permutation test (Wilcoxon).

    A difference of 0 keeps its rank but counts for neither side. Exact up to 60 pairs, not counting
    differences of 0; above, the normal approximation.
    """
    if not differences:
        raise ValueError("no pair to compare")
    ranks = _doubled_ranks([abs(difference) for difference in differences])
    used = [rank for rank, sign in zip(ranks, differences, strict=True) if sign]
    seen = sum(rank for rank, sign in zip(ranks, differences, strict=True) if sign > 0)
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
    return math.erfc(
        distance / math.sqrt(2 * variance)
    )  # accurate in the far tail, where 1 - cdf is 0


FENCE_RUNS = 8
"""The number of earlier changes needed to know a series' own noise."""


def changes(medians: Sequence[Estimate], better: str, relative: float = 0.10) -> list[Outcome]:
    """For each run of a series after the first: how it differs from the run before.

    Runs differ by more than the spread of their samples shows: other boots, other neighbours. So a
    change counts when the intervals of the medians do not overlap, the change is at least
    `relative`, and, given FENCE_RUNS earlier changes, it exceeds Q3 + 3 IQR of these (of absolute
    logarithms, as rustc-perf does).
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


def _apart(old: Estimate, new: Estimate) -> bool:
    if old.low is None or old.high is None or new.low is None or new.high is None:
        return False
    return old.high < new.low or new.high < old.low

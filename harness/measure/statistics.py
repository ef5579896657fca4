"""Pure statistics: nearest-rank percentiles with order-statistic intervals, and bootstrap intervals
for means and for ratios of medians.

The bounds of a percentile's interval are two of the samples, chosen by the binomial distribution
of the number of samples below it. This assumes nothing about the samples' distribution. A bound
does not exist for too few samples: a percentile is shown only where both bounds exist (p95 from 72
samples, p99 from 368, at 95 % confidence).
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

CONFIDENCE = 0.95
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Estimate:
    """A value and the bounds of its confidence interval, in the samples' unit; None: no bound."""

    value: float
    low: float | None
    high: float | None

    @property
    def bounded(self) -> bool:
        """Whether both bounds exist."""
        return self.low is not None and self.high is not None


def percentile(samples: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile: the smallest sample not exceeded by `percent` of the samples.

    ValueError without samples, or for a percent outside of (0, 100].
    """
    if not samples or not 0 < percent <= 100:
        raise ValueError(f"no percentile {percent} of {len(samples)} samples")
    return sorted(samples)[_rank(len(samples), percent) - 1]


def _rank(n: int, percent: float) -> int:
    # Rounded first, so that 0.95 * 20 does not become rank 20.
    return math.ceil(round(percent / 100 * n, 9))


def _binomial_below(n: int, probability: float) -> list[float]:
    """P(X <= k) for k = 0..n, X binomial; computed with logarithms, for large n."""
    total, table = 0.0, []
    for k in range(n + 1):
        log = (
            math.lgamma(n + 1)
            - math.lgamma(k + 1)
            - math.lgamma(n - k + 1)
            + k * math.log(probability)
            + (n - k) * math.log1p(-probability)
        )
        total += math.exp(log)
        table.append(min(total, 1.0))
    return table


@functools.lru_cache(maxsize=4096)
def ranks(n: int, percent: float, confidence: float = CONFIDENCE) -> tuple[int | None, int | None]:
    """Ranks (from 1) of the two samples that bound a percentile; None where n is too small.

    Each tail has a probability of at most (1 - confidence) / 2, so the coverage is at least
    `confidence`.
    """
    tail = (1 - confidence) / 2
    if n > _MANY:
        return _ranks_of_many(n, percent / 100, tail)
    below = _binomial_below(n, percent / 100)
    # X_(l) is a lower bound unless fewer than l samples fall below: P(X <= l - 1) <= tail.
    lows = [k + 1 for k in range(n) if below[k] <= tail]
    # X_(u) is an upper bound unless u or more samples fall below: P(X >= u) <= tail.
    highs = [k + 1 for k in range(n) if 1 - below[k] <= tail]
    return (lows[-1] if lows else None, highs[0] if highs else None)


_MANY = 20_000
"""Above this, the normal approximation errs by far less than 1 % of a rank."""


def _ranks_of_many(n: int, p: float, tail: float) -> tuple[int, int]:
    """`ranks` by the normal approximation, widened by one rank on either side."""
    reach = _NORMAL.inv_cdf(1 - tail) * math.sqrt(n * p * (1 - p))
    return math.floor(n * p - reach), math.ceil(n * p + reach) + 1


def estimate(samples: Sequence[float], percent: float, confidence: float = CONFIDENCE) -> Estimate:
    """A percentile of the samples with its order-statistic interval. ValueError without samples."""
    if not samples:
        raise ValueError(f"no percentile {percent} of 0 samples")
    return estimate_ordered(sorted(samples), percent, confidence)


def estimate_ordered(
    ordered: Sequence[float], percent: float, confidence: float = CONFIDENCE
) -> Estimate:
    """`estimate` for sorted samples: of many samples, sorting is most of the work."""
    low, high = ranks(len(ordered), percent, confidence)
    return Estimate(
        ordered[_rank(len(ordered), percent) - 1],
        ordered[low - 1] if low else None,
        ordered[high - 1] if high else None,
    )


def smallest_n(percent: float, confidence: float = CONFIDENCE) -> int:
    """The number of samples from which on this percentile has both bounds."""
    share = max(percent, 100 - percent) / 100
    return math.ceil(round(math.log((1 - confidence) / 2) / math.log(share), 9))


@dataclass(frozen=True)
class Summary:
    """Summary of a series; `percentiles` has only those with enough samples."""

    n: int
    minimum: float
    maximum: float
    median: Estimate
    percentiles: dict[int, Estimate]


def summarise(samples: Sequence[float], wanted: Sequence[int] = (90, 95, 99)) -> Summary:
    """The summary of samples. ValueError when there is none."""
    shown = {p: estimate(samples, p) for p in wanted if len(samples) >= smallest_n(p)}
    return Summary(len(samples), min(samples), max(samples), estimate(samples, 50), shown)


RESAMPLES = 999
"""Resamples of a bootstrap. A mean of more samples than this needs none (see `mean`)."""


def mean(samples: Sequence[float], confidence: float = CONFIDENCE, seed: int = 0) -> Estimate:
    """The arithmetic mean, with a bias-corrected and accelerated bootstrap interval (BCa).

    There are no bounds for fewer than 8 samples, which say too little about the tails. Above
    RESAMPLES samples, the mean is close enough to normal, and its interval is computed instead.
    Equal samples and seeds give equal bounds. ValueError without samples.
    """
    n = len(samples)
    if not n:
        raise ValueError("no mean of 0 samples")
    centre = math.fsum(samples) / n
    if n < 8:
        return Estimate(centre, None, None)
    tail = (1 - confidence) / 2
    spread = math.sqrt(math.fsum((sample - centre) ** 2 for sample in samples) / (n - 1))
    if n > RESAMPLES or not spread:
        reach = _NORMAL.inv_cdf(1 - tail) * spread / math.sqrt(n)
        return Estimate(centre, centre - reach, centre + reach)
    chance = random.Random(seed)
    drawn = sorted(math.fsum(chance.choices(samples, k=n)) / n for _ in range(RESAMPLES))
    below = sum(mean < centre for mean in drawn) + sum(mean == centre for mean in drawn) / 2
    bias = _NORMAL.inv_cdf(min(max(below / RESAMPLES, 1e-4), 1 - 1e-4))
    # For a mean, the jackknife deviations are the samples' own deviations, negated and scaled.
    skew = math.fsum((sample - centre) ** 3 for sample in samples)
    acceleration = skew / (6 * math.fsum((sample - centre) ** 2 for sample in samples) ** 1.5)

    def bound(share: float) -> float:
        z = bias + _NORMAL.inv_cdf(share)
        moved = _NORMAL.cdf(bias + z / (1 - acceleration * z))
        return drawn[min(max(round(moved * (RESAMPLES + 1)) - 1, 0), RESAMPLES - 1)]

    return Estimate(centre, bound(tail), bound(1 - tail))


def ratio_of_medians(
    before: Sequence[float], after: Sequence[float], confidence: float = CONFIDENCE, seed: int = 0
) -> Estimate:
    """The median of `after` divided by that of `before`, with a percentile bootstrap interval.

    A resample's median is one of the samples, whose rank follows a Beta distribution; the rank is
    drawn directly, for any number of samples. There are no bounds for fewer than 6 samples on
    either side, nor where a resampled divisor could be 0. ValueError without samples.
    """
    left, right = sorted(before), sorted(after)
    below = percentile(left, 50)
    value = percentile(right, 50) / below if below else math.inf
    if min(len(left), len(right)) < smallest_n(50) or left[0] <= 0:
        return Estimate(value, None, None)
    chance = random.Random(seed)
    drawn = sorted(_resampled(right, chance) / _resampled(left, chance) for _ in range(RESAMPLES))
    tail = (1 - confidence) / 2
    last = RESAMPLES - 1
    return Estimate(value, drawn[round(tail * last)], drawn[round((1 - tail) * last)])


def _resampled(ordered: Sequence[float], chance: random.Random) -> float:
    """The nearest-rank median of one bootstrap resample."""
    n = len(ordered)
    rank = math.ceil(n / 2)
    return ordered[min(int(n * chance.betavariate(rank, n - rank + 1)), n - 1)]


def samples_needed(
    samples: Sequence[float], percent: float, value: float, confidence: float = CONFIDENCE
) -> int | None:
    """The number of samples needed to distinguish a percentile from `value`, at this spread.

    It is the smallest number for which the normal approximation of the binomial excludes the
    observed share of samples that do not exceed `value`. None: no number is enough, because
    `value` is at the percentile.
    """
    share = sum(sample <= value for sample in samples) / len(samples)
    p = percent / 100
    if abs(share - p) < 1e-9:
        return None
    z = _NORMAL.inv_cdf((1 + confidence) / 2)
    return max(math.ceil(p * (1 - p) * (z / (share - p)) ** 2), smallest_n(percent, confidence))

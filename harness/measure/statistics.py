"""Statistics without input or output: nearest-rank percentiles and their order-statistic intervals,
and bootstrap intervals for means and ratios of medians, which have no such ranks.

The interval of a percentile is made of two of the samples themselves, chosen by the binomial
distribution of how many samples lie below it. It assumes nothing of the samples' distribution
and says when there are too few of them for a bound: a percentile is shown only where both of
its bounds exist (p95 from 72 samples, p99 from 368, at 95 % confidence).
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
    """A percentile and the bounds of its interval, in the unit of the samples; None: no bound."""

    value: float
    low: float | None
    high: float | None

    @property
    def bounded(self) -> bool:
        return self.low is not None and self.high is not None


def percentile(samples: Sequence[float], percent: float) -> float:
    """The smallest sample that at least `percent` of the samples do not exceed (nearest rank)."""
    if not samples or not 0 < percent <= 100:
        raise ValueError(f"no percentile {percent} of {len(samples)} samples")
    return sorted(samples)[_rank(len(samples), percent) - 1]


def _rank(n: int, percent: float) -> int:
    # The product is rounded first: 0.95 * 20 must not become rank 20.
    return math.ceil(round(percent / 100 * n, 9))


def _binomial_below(n: int, probability: float) -> list[float]:
    """P(X <= k) for k = 0..n, X binomial; in logarithms, so that n may be large."""
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

    Each tail is held to (1 - confidence) / 2: the coverage is at least `confidence`.
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
"""Samples above which the binomial is normal to far less than one rank in a hundred."""


def _ranks_of_many(n: int, p: float, tail: float) -> tuple[int, int]:
    """`ranks` by the normal approximation, with one rank to spare on either side."""
    reach = _NORMAL.inv_cdf(1 - tail) * math.sqrt(n * p * (1 - p))
    return math.floor(n * p - reach), math.ceil(n * p + reach) + 1


def estimate(samples: Sequence[float], percent: float, confidence: float = CONFIDENCE) -> Estimate:
    """A percentile of the samples with its order-statistic interval."""
    if not samples:
        raise ValueError(f"no percentile {percent} of 0 samples")
    return estimate_ordered(sorted(samples), percent, confidence)


def estimate_ordered(
    ordered: Sequence[float], percent: float, confidence: float = CONFIDENCE
) -> Estimate:
    """The same of samples that are sorted already; of many, sorting is most of the work."""
    low, high = ranks(len(ordered), percent, confidence)
    return Estimate(
        ordered[_rank(len(ordered), percent) - 1],
        ordered[low - 1] if low else None,
        ordered[high - 1] if high else None,
    )


def smallest_n(percent: float, confidence: float = CONFIDENCE) -> int:
    """The fewest samples from which this percentile has both bounds."""
    share = max(percent, 100 - percent) / 100
    return math.ceil(round(math.log((1 - confidence) / 2) / math.log(share), 9))


@dataclass(frozen=True)
class Summary:
    """What is shown of a series; `percentiles` holds only those that n allows."""

    n: int
    minimum: float
    maximum: float
    median: Estimate
    percentiles: dict[int, Estimate]


def summarise(samples: Sequence[float], wanted: Sequence[int] = (90, 95, 99)) -> Summary:
    """Raises ValueError when there is no sample."""
    shown = {p: estimate(samples, p) for p in wanted if len(samples) >= smallest_n(p)}
    return Summary(len(samples), min(samples), max(samples), estimate(samples, 50), shown)


RESAMPLES = 999
"""Of a bootstrap; a mean of more samples than this needs none (see `mean`)."""


def mean(samples: Sequence[float], confidence: float = CONFIDENCE, seed: int = 0) -> Estimate:
    """The arithmetic mean, with a bias-corrected and accelerated bootstrap interval (BCa).

    Below 8 samples it has no bounds: a bootstrap can show no tail that it has not seen. Above
    RESAMPLES samples the mean's distribution is normal for all that matters here, and its interval
    is computed, not drawn. Equal samples and seeds give equal bounds. ValueError without a sample.
    """
    n = len(samples)
    if not n:
        raise ValueError("no mean of 0 samples")
    centre = math.fsum(samples) / n
    if n < 8:
        return Estimate(centre, None, None)
    tail = (1 - confidence) / 2
    spread = math.sqrt(math.fsum((one - centre) ** 2 for one in samples) / (n - 1))
    if n > RESAMPLES or not spread:
        reach = _NORMAL.inv_cdf(1 - tail) * spread / math.sqrt(n)
        return Estimate(centre, centre - reach, centre + reach)
    chance = random.Random(seed)
    drawn = sorted(math.fsum(chance.choices(samples, k=n)) / n for _ in range(RESAMPLES))
    below = sum(one < centre for one in drawn) + sum(one == centre for one in drawn) / 2
    bias = _NORMAL.inv_cdf(min(max(below / RESAMPLES, 1e-4), 1 - 1e-4))
    # Of a mean the jackknife's deviations are the samples' own, turned round and shrunk.
    skew = math.fsum((one - centre) ** 3 for one in samples)
    acceleration = skew / (6 * math.fsum((one - centre) ** 2 for one in samples) ** 1.5)

    def bound(share: float) -> float:
        z = bias + _NORMAL.inv_cdf(share)
        moved = _NORMAL.cdf(bias + z / (1 - acceleration * z))
        return drawn[min(max(round(moved * (RESAMPLES + 1)) - 1, 0), RESAMPLES - 1)]

    return Estimate(centre, bound(tail), bound(1 - tail))


def ratio_of_medians(
    one: Sequence[float], other: Sequence[float], confidence: float = CONFIDENCE, seed: int = 0
) -> Estimate:
    """The median of `other` by that of `one`, with a percentile bootstrap interval.

    A resample's median is one of the samples, and its rank follows a Beta distribution: it is drawn
    directly, whatever the number of samples. No bounds below 6 samples of either, nor where a
    median of 0 is divided by. ValueError without samples.
    """
    left, right = sorted(one), sorted(other)
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
    """How many samples it would take to tell a percentile from `value`, if they lay as these do.

    From the share of the samples that do not exceed `value`: the fewest of which the normal
    approximation of the binomial would exclude that share. None: no number would do, since
    the value is where the percentile is.
    """
    share = sum(one <= value for one in samples) / len(samples)
    p = percent / 100
    if abs(share - p) < 1e-9:
        return None
    z = _NORMAL.inv_cdf((1 + confidence) / 2)
    return max(math.ceil(p * (1 - p) * (z / (share - p)) ** 2), smallest_n(percent, confidence))

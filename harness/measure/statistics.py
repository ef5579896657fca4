"""Statistics without input or output: nearest-rank percentiles and their order-statistic intervals.

The interval of a percentile is made of two of the samples themselves, chosen by the binomial
distribution of how many samples lie below it. It assumes nothing of the samples' distribution
and says when there are too few of them for a bound: a percentile is shown only where both of
its bounds exist (p95 from 72 samples, p99 from 368, at 95 % confidence).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


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
    # The product is rounded first: 0.95 * 20 must not become rank 20.
    return sorted(samples)[math.ceil(round(percent / 100 * len(samples), 9)) - 1]


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


def ranks(n: int, percent: float, confidence: float = CONFIDENCE) -> tuple[int | None, int | None]:
    """Ranks (from 1) of the two samples that bound a percentile; None where n is too small.

    Each tail is held to (1 - confidence) / 2: the coverage is at least `confidence`.
    """
    tail = (1 - confidence) / 2
    below = _binomial_below(n, percent / 100)
    # X_(l) is a lower bound unless fewer than l samples fall below: P(X <= l - 1) <= tail.
    lows = [k + 1 for k in range(n) if below[k] <= tail]
    # X_(u) is an upper bound unless u or more samples fall below: P(X >= u) <= tail.
    highs = [k + 1 for k in range(n) if 1 - below[k] <= tail]
    return (lows[-1] if lows else None, highs[0] if highs else None)


def estimate(samples: Sequence[float], percent: float, confidence: float = CONFIDENCE) -> Estimate:
    """A percentile of the samples with its order-statistic interval."""
    ordered = sorted(samples)
    low, high = ranks(len(ordered), percent, confidence)
    return Estimate(
        percentile(ordered, percent),
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

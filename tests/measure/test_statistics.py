"""Percentiles checked against examples; intervals against exact sums and simulation."""

from __future__ import annotations

import math
import random
from fractions import Fraction
from statistics import NormalDist

import pytest

from harness.measure import statistics

# The textbook examples of the nearest-rank definition: rank = ceil(P/100 * n), counted from 1.
FIVE = (15.0, 20.0, 35.0, 40.0, 50.0)
TEN = (3.0, 6.0, 7.0, 8.0, 8.0, 10.0, 13.0, 15.0, 16.0, 20.0)
ELEVEN = (3.0, 6.0, 7.0, 8.0, 8.0, 9.0, 10.0, 13.0, 15.0, 16.0, 20.0)


@pytest.mark.parametrize(
    ("samples", "percent", "expected"),
    [
        (FIVE, 5, 15), (FIVE, 30, 20), (FIVE, 40, 20), (FIVE, 50, 35), (FIVE, 100, 50),
        (TEN, 25, 7), (TEN, 50, 8), (TEN, 75, 15), (TEN, 100, 20),
        (ELEVEN, 25, 7), (ELEVEN, 50, 9), (ELEVEN, 75, 15), (ELEVEN, 100, 20),
        ((1.5,), 1, 1.5), ((1.5,), 99, 1.5),
    ],
)  # fmt: skip
def test_nearest_rank(samples: tuple[float, ...], percent: float, expected: float) -> None:
    assert statistics.percentile(samples, percent) == expected
    assert statistics.percentile(samples[::-1], percent) == expected


@pytest.mark.parametrize("n", [20, 100, 200, 1000])
@pytest.mark.parametrize("percent", [5, 35, 55, 95, 99, 99.9])
def test_the_rank_is_not_changed_by_a_rounding_error(n: int, percent: float) -> None:
    exact = math.ceil(Fraction(str(percent)) * n / 100)
    assert statistics.percentile([float(rank) for rank in range(1, n + 1)], percent) == exact


@pytest.mark.parametrize(("samples", "percent"), [((), 50), ((1.0,), 0), ((1.0,), 100.1)])
def test_a_percentile_without_samples_is_refused(
    samples: tuple[float, ...], percent: float
) -> None:
    with pytest.raises(ValueError, match="no percentile"):
        statistics.percentile(samples, percent)


@pytest.mark.parametrize(("percent", "n"), [(50, 6), (90, 36), (95, 72), (99, 368), (99.9, 3688)])
def test_smallest_n(percent: float, n: int) -> None:
    assert statistics.smallest_n(percent) == n
    assert None not in statistics.ranks(n, percent)
    assert None in statistics.ranks(n - 1, percent)


@pytest.mark.parametrize(
    ("n", "expected"),
    [(5, (None, None)), (6, (1, 6)), (10, (2, 9)), (30, (10, 21)), (100, (40, 61))],
)
def test_ranks_of_the_median_agree_with_published_tables(
    n: int, expected: tuple[int | None, int | None]
) -> None:
    assert statistics.ranks(n, 50) == expected


def _below(n: int, p: Fraction, k: int) -> Fraction:
    """P(X <= k), exactly."""
    return sum(
        (math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1)), start=Fraction()
    )


@pytest.mark.parametrize("n", [7, 30, 72, 100])
@pytest.mark.parametrize("percent", [25, 50, 90, 95])
def test_each_tail_is_within_its_bound_and_no_smaller_than_necessary(n: int, percent: int) -> None:
    p, tail = Fraction(percent, 100), Fraction(25, 1000)
    low, high = statistics.ranks(n, percent)
    if low is None:
        assert _below(n, p, 0) > tail
    else:
        assert _below(n, p, low - 1) <= tail < _below(n, p, low)
    if high is None:
        assert 1 - _below(n, p, n - 1) > tail
    else:
        assert 1 - _below(n, p, high - 1) <= tail < 1 - _below(n, p, high - 2)


SIGMA, TRIALS = 0.5, 400
# Three standard errors of a share of 0.95 over these trials.
TOLERANCE = 3 * math.sqrt(0.95 * 0.05 / TRIALS)


@pytest.mark.parametrize("n", [30, 100, 400])
@pytest.mark.parametrize("percent", [50, 95, 99])
def test_the_interval_covers_the_true_percentile_of_a_lognormal(n: int, percent: int) -> None:
    truth = math.exp(SIGMA * NormalDist().inv_cdf(percent / 100))
    chance = random.Random(20260102)
    covered = 0
    for _ in range(TRIALS):
        found = statistics.estimate([chance.lognormvariate(0, SIGMA) for _ in range(n)], percent)
        low = -math.inf if found.low is None else found.low
        high = math.inf if found.high is None else found.high
        covered += low <= truth <= high
        assert found.bounded == (n >= statistics.smallest_n(percent))
    assert covered / TRIALS >= 0.95 - TOLERANCE
    if n == 400 and percent == 50:
        # Nor is it too wide to be useful.
        assert covered / TRIALS <= 0.95 + TOLERANCE


def test_a_summary_shows_only_the_percentiles_that_n_allows() -> None:
    samples = [float(n) for n in range(367, 0, -1)]
    assert list(statistics.summarise(samples[:35]).percentiles) == []
    assert list(statistics.summarise(samples[:36]).percentiles) == [90]
    assert list(statistics.summarise(samples).percentiles) == [90, 95]
    whole = statistics.summarise([*samples, 368.0])
    assert list(whole.percentiles) == [90, 95, 99]
    assert (whole.n, whole.minimum, whole.maximum) == (368, 1, 368)
    assert whole.median.value == 184
    assert whole.percentiles[99].high == 368
    with pytest.raises(ValueError):
        statistics.summarise([])

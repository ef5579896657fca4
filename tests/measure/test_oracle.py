"""Our statistics, which are of the standard library alone, against scipy's: other people's code.

scipy is an oracle here and in `dev` only; what measures never imports it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from types import SimpleNamespace

import pytest

pytest.importorskip("scipy", reason="scipy is not installed: bin/mise run setup -- --tests")

import numpy
from scipy import stats

from harness.measure import comparison, statistics
from harness.measure.statistics import RESAMPLES


def _skewed(n: int, seed: int, sigma: float = 1.0) -> list[float]:
    chance = random.Random(seed)
    return [chance.lognormvariate(0, sigma) for _ in range(n)]


@pytest.mark.parametrize("n", [1, 2, 7, 19, 64, 365])
@pytest.mark.parametrize("percent", [1, 25, 50, 90, 99, 100])
def test_nearest_ranks(n: int, percent: int) -> None:
    samples = _skewed(n, n + percent)
    theirs = numpy.percentile(samples, percent, method="inverted_cdf")
    assert statistics.percentile(samples, percent) == theirs


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
@pytest.mark.parametrize("percent", [10, 50, 90, 95, 99])
def test_order_statistic_intervals(percent: int, confidence: float) -> None:
    for n in (*range(1, 120), 368, 1000, 20_000):
        low, high = statistics.ranks(n, percent, confidence)
        # P(X <= l - 1) <= tail < P(X <= l), and as much from above.
        law, tail = stats.binom(n, percent / 100), (1 - confidence) / 2
        least = int(law.ppf(tail))
        assert low == (least or None), n
        greatest = int(law.isf(tail)) + 1
        assert high == (greatest if greatest <= n else None), n


def test_the_interval_of_a_median_as_scipys_test_of_quantiles_has_it() -> None:
    samples = _skewed(75, 4)
    ours = statistics.estimate(samples, 50)
    theirs = stats.quantile_test(samples, q=1.0, p=0.5).confidence_interval(0.95)
    assert (ours.low, ours.high) == (theirs.low, theirs.high)


@pytest.mark.parametrize("percent", [50, 95, 99])
@pytest.mark.parametrize("n", [20_001, 100_000])
def test_of_many_samples_the_ranks_are_spared_by_one_on_either_side(n: int, percent: int) -> None:
    law = stats.binom(n, percent / 100)
    low, high = statistics.ranks(n, percent)
    assert low is not None and high is not None
    exact = int(law.ppf(0.025)), int(law.isf(0.025)) + 1
    assert exact[0] - 2 <= low <= exact[0]
    assert exact[1] <= high <= exact[1] + 2


@pytest.mark.parametrize("n", [RESAMPLES + 1, 1234, 30_000])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_the_interval_of_a_mean_of_many_samples(n: int, confidence: float) -> None:
    samples = _skewed(n, n)
    found = statistics.mean(samples, confidence)
    theirs = stats.norm.interval(confidence, numpy.mean(samples), stats.sem(samples))
    assert (found.low, found.high) == pytest.approx(theirs, rel=1e-12)


def _resamples(samples: Sequence[float], seed: int) -> list[float]:
    """The means of the resamples that `statistics.mean` draws with that seed, in order."""
    chance = random.Random(seed)
    n = len(samples)
    return sorted(math.fsum(chance.choices(samples, k=n)) / n for _ in range(RESAMPLES))


@pytest.mark.parametrize("confidence", [0.9, 0.95])
@pytest.mark.parametrize(
    "samples",
    [
        _skewed(8, 1), _skewed(20, 2), _skewed(60, 3), [-one for one in _skewed(25, 4)],
        _skewed(RESAMPLES, 6, 2.0),
        [1.0] * 9 + [2.0] * 2,  # many resamples have the very mean of the samples
    ],
)  # fmt: skip
def test_bca_of_the_same_resamples(samples: list[float], confidence: float) -> None:
    for seed in range(3):
        found = statistics.mean(samples, confidence, seed)
        drawn = _resamples(samples, seed)
        theirs = stats.bootstrap(
            (samples,),
            numpy.mean,
            n_resamples=0,
            confidence_level=confidence,
            method="BCa",
            bootstrap_result=SimpleNamespace(bootstrap_distribution=numpy.array(drawn)),
        ).confidence_interval
        for ours, other in ((found.low, theirs.low), (found.high, theirs.high)):
            assert ours is not None
            # Ours is one of the resamples; scipy's lies between two of them. Were the bias or the
            # acceleration wrong, they would be some ranks apart: 3 to 30 for samples this skewed.
            at = drawn.index(ours)
            near = drawn[max(at - 2, 0)], drawn[min(at + 2, RESAMPLES - 1)]
            assert near[0] <= other <= near[1], (at, numpy.searchsorted(drawn, other))


@pytest.mark.parametrize("n", [6, 7, 30, 31])
def test_the_bootstrap_of_a_ratio_of_medians(n: int) -> None:
    """A set that is all ones leaves the bounds of the other's median, whose law is known."""
    samples = [float(k) for k in range(1, n + 1)]
    random.Random(n).shuffle(samples)  # measurements come in no order
    ones = [1.0] * n

    def below(rank: float) -> float:
        """P(the median of a resample is at most the sample of that rank), exactly."""
        return float(stats.binom(n, rank / n).sf(math.ceil(n / 2) - 1))

    for seed in range(3):
        over = statistics.ratio_of_medians(ones, samples, seed=seed)
        under = statistics.ratio_of_medians(samples, ones, seed=seed)
        assert over.value == 1 / under.value == math.ceil(n / 2)
        for low, high in (
            (over.low, over.high),
            (under.high and 1 / under.high, under.low and 1 / under.low),
        ):
            assert low and high
            # Of 999 draws a share of 0.025 is known to 0.005.
            assert below(round(low) - 1) - 0.015 <= 0.025 <= below(round(low)) + 0.015
            assert below(round(high) - 1) - 0.015 <= 0.975 <= below(round(high)) + 0.015


def _rank_sum(one: numpy.ndarray, other: numpy.ndarray, axis: int = -1) -> numpy.ndarray:
    ranks = stats.rankdata(numpy.concatenate([one, other], axis=axis), axis=axis)
    first = numpy.take(ranks, range(one.shape[axis]), axis=axis).sum(axis=axis)
    # Counted from the middle, so that either side is as extreme as the other.
    return numpy.asarray(abs(first - one.shape[axis] * (ranks.shape[axis] + 1) / 2))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("left", "right"), [(2, 6), (4, 5), (6, 4)])
def test_the_permutation_test_of_two_sets(seed: int, left: int, right: int) -> None:
    chance = random.Random(seed)
    ties = 4 if seed % 2 else 1000
    one = [float(chance.randint(0, ties)) for _ in range(left)]
    other = [float(chance.randint(1, ties + 2)) for _ in range(right)]
    theirs = stats.permutation_test(
        (one, other), _rank_sum, n_resamples=math.inf, vectorized=True, alternative="greater"
    )
    assert comparison.rank_sum(one, other) == pytest.approx(theirs.pvalue, rel=1e-12)


@pytest.mark.parametrize(("left", "right"), [(30, 20), (50, 50), (1, 99)])
def test_exact_counts_up_to_a_hundred_samples(left: int, right: int) -> None:
    one, other = _skewed(left, left), [1.4 * value for value in _skewed(right, 100 + right)]
    theirs = stats.mannwhitneyu(one, other, method="exact")
    assert comparison.rank_sum(one, other) == pytest.approx(theirs.pvalue, rel=1e-9)


@pytest.mark.parametrize("ties", [5, 10**6])
@pytest.mark.parametrize(("left", "right"), [(60, 41), (400, 90)])
def test_the_normal_law_of_more_samples(left: int, right: int, ties: int) -> None:
    chance = random.Random(left + ties)
    one = [float(chance.randint(0, ties)) for _ in range(left)]
    other = [float(chance.randint(0, ties + ties // 5)) for _ in range(right)]
    theirs = stats.mannwhitneyu(one, other, method="asymptotic", use_continuity=True)
    assert comparison.rank_sum(one, other) == pytest.approx(theirs.pvalue, rel=1e-9)
    assert comparison.rank_sum(other, one) == pytest.approx(theirs.pvalue, rel=1e-9)


@pytest.mark.parametrize("seed", range(6))
def test_the_permutation_test_of_pairs(seed: int) -> None:
    """With ties, and with pairs that do not differ, which keep their rank (Pratt)."""
    chance = random.Random(seed)
    pairs = [float(chance.randint(-3, 6)) for _ in range(11)]
    every = stats.PermutationMethod(n_resamples=numpy.inf)
    theirs = stats.wilcoxon(pairs, zero_method="pratt", method=every)
    assert comparison.signed_rank(pairs) == pytest.approx(theirs.pvalue, rel=1e-9)


@pytest.mark.parametrize("n", [8, 20, 50])
def test_exact_counts_of_pairs(n: int) -> None:
    pairs = [value - 1.4 for value in _skewed(n, n)]
    theirs = stats.wilcoxon(pairs, method="exact")
    assert comparison.signed_rank(pairs) == pytest.approx(theirs.pvalue, rel=1e-9)


@pytest.mark.parametrize("ties", [4, 10**6])
def test_the_normal_law_of_more_pairs(ties: int) -> None:
    chance = random.Random(ties)
    pairs = [float(chance.randint(-ties, ties + ties // 4)) for _ in range(90)]
    theirs = stats.wilcoxon(pairs, zero_method="pratt", correction=True, method="asymptotic")
    assert comparison.signed_rank(pairs) == pytest.approx(theirs.pvalue, rel=1e-9)

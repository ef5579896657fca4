"""Comparisons are checked against published p-values, and by simulation."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from harness.measure import comparison, statistics
from harness.measure.comparison import Outcome, Thresholds, compare, compare_paired
from harness.measure.statistics import Estimate

# Hollander and Wolfe, 1973, as in R's ?wilcox.test: the Hamilton depression scale of nine patients
# (V = 40, one-sided p 0.01953), and the permeability of chorioamnion (W = 35, one-sided p 0.1272).
BEFORE = (1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30)
AFTER = (0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29)
AT_TERM = (0.80, 0.83, 1.89, 1.04, 1.45, 1.38, 1.91, 1.64, 0.73, 1.46)
EARLY = (1.15, 0.88, 0.90, 0.74, 1.21)


def test_published_p_values() -> None:
    pairs = [a - b for a, b in zip(BEFORE, AFTER, strict=True)]
    assert comparison.signed_rank(pairs) == pytest.approx(2 * 0.01953, abs=1e-5)
    assert comparison.rank_sum(AT_TERM, EARLY) == pytest.approx(2 * 0.1272, abs=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_ties_are_counted_exactly(seed: int) -> None:
    chance = random.Random(seed)
    one = [chance.randint(0, 3) for _ in range(4)]
    other = [chance.randint(1, 4) for _ in range(5)]
    pool = [float(value) for value in (*one, *other)]
    ranks = [sum(b < a for b in pool) + (sum(b == a for b in pool) + 1) / 2 for a in pool]
    seen = abs(sum(ranks[:4]) - 4 * sum(ranks) / 9)
    picks = list(itertools.combinations(ranks, 4))
    extreme = sum(abs(sum(pick) - 4 * sum(ranks) / 9) >= seen - 1e-9 for pick in picks)
    assert comparison.rank_sum(pool[:4], pool[4:]) == pytest.approx(extreme / len(picks))
    assert comparison.rank_sum(pool[4:], pool[:4]) == pytest.approx(extreme / len(picks))


def test_the_normal_approximation_agrees_with_the_exact_count_at_the_limit() -> None:
    chance = random.Random(3)
    for shift in (0.0, 0.2, 0.5):
        one = [chance.gauss(0, 1) for _ in range(50)]
        other = [chance.gauss(shift, 1) for _ in range(50)]
        exact = comparison.rank_sum(one, other)
        # One more sample exceeds the limit of exact counting.
        more = comparison.rank_sum([*one, 0.0], other)
        assert more == pytest.approx(exact, abs=0.03)
        pairs = [a - b for a, b in zip(one, other, strict=True)]
        assert comparison.signed_rank([*pairs, *pairs[:10]]) <= 1
    assert comparison.rank_sum([1.0] * 80, [1.0] * 80) == 1.0
    assert comparison.signed_rank([0.0] * 80) == 1.0


def _noise(chance: random.Random, n: int, scale: float = 1.0) -> list[float]:
    return [scale * chance.lognormvariate(0, 0.3) for _ in range(n)]


@pytest.mark.parametrize("n", [12, 25, 200])
def test_equal_distributions_do_not_differ(n: int) -> None:
    chance = random.Random(20260104)
    outcomes = [compare(_noise(chance, n), _noise(chance, n)).outcome for _ in range(100)]
    assert outcomes.count(Outcome.SAME) >= 95
    # Without size thresholds, the error rate is alpha, within three standard errors.
    wrong = sum(
        comparison.rank_sum(_noise(chance, n), _noise(chance, n)) < 0.01 for _ in range(100)
    )
    assert wrong / 100 <= 0.01 + 3 * math.sqrt(0.01 * 0.99 / 100)


def test_equal_interleaved_distributions_do_not_differ_on_a_drifting_host() -> None:
    chance = random.Random(20260105)
    same = 0
    for _ in range(100):
        drift = [math.exp(0.2 * round_ + chance.gauss(0, 0.2)) for round_ in range(10)]
        one = [_noise(chance, 8, level) for level in drift]
        other = [_noise(chance, 8, level) for level in drift]
        same += compare_paired(one, other).outcome is Outcome.SAME
    assert same >= 95


def test_a_shift_is_detected_with_its_direction_despite_drift() -> None:
    chance = random.Random(20260106)
    worse = better = paired = 0
    for _ in range(50):
        one, other = _noise(chance, 60), _noise(chance, 60, 1.3)
        worse += compare(one, other).outcome is Outcome.WORSE
        better += compare(one, other, "higher").outcome is Outcome.BETTER
        drift = [math.exp(chance.gauss(0, 1)) for _ in range(12)]
        rounds = [_noise(chance, 10, level) for level in drift]
        slower = [_noise(chance, 10, 1.3 * level) for level in drift]
        paired += compare_paired(rounds, slower).outcome is Outcome.WORSE
    assert min(worse, better, paired) >= 45


def test_significance_alone_is_not_enough() -> None:
    one = [1 + 0.0001 * k for k in range(100)]
    other = [value * 1.02 for value in one]
    assert compare(one, other).p < 0.01
    assert compare(one, other).outcome is Outcome.SAME
    assert compare(one, other, thresholds=Thresholds(relative=0.01)).outcome is Outcome.WORSE
    strict = Thresholds(relative=0.01, absolute=0.5)
    assert compare(one, other, thresholds=strict).outcome is Outcome.SAME


def test_a_comparison_holds_what_was_compared() -> None:
    one, other = _noise(random.Random(1), 20), _noise(random.Random(2), 30, 1.4)
    found = compare(one, other)
    assert (found.before, found.after) == (
        statistics.estimate(one, 50),
        statistics.estimate(other, 50),
    )
    assert found.ratio == statistics.ratio_of_medians(one, other)
    assert found.p == comparison.rank_sum(one, other)
    assert (found.n, found.pairs) == ((20, 30), None)
    assert found.difference == found.after.value - found.before.value > 0


def test_a_paired_comparison_holds_the_medians_of_its_rounds() -> None:
    chance = random.Random(3)
    one = [_noise(chance, 4 + 2 * (k % 3)) for k in range(10)]
    other = [_noise(chance, 6, 1.2) for _ in range(10)]
    found = compare_paired(one, other)
    left = [statistics.percentile(each, 50) for each in one]
    right = [statistics.percentile(each, 50) for each in other]
    pairs = list(zip(left, right, strict=True))
    assert found.before == statistics.estimate(left, 50)
    assert found.after == statistics.estimate(right, 50)
    assert found.ratio == statistics.estimate([b / a for a, b in pairs], 50)
    assert found.p == comparison.signed_rank([b - a for a, b in pairs])
    assert (found.n, found.pairs) == ((sum(map(len, one)), 60), 10)
    nothing = compare_paired([[0.0]] * 9, [[1.0]] * 9)
    assert nothing.ratio.value == math.inf and nothing.outcome is Outcome.WORSE
    for rounds in ((one, other[:8]), ([], [])):
        with pytest.raises(ValueError, match="do not pair"):
            compare_paired(*rounds)


def test_a_threshold_that_is_met_is_passed_and_alpha_is_not() -> None:
    one, other = [1.0 + k / 64 for k in range(9)], [1.25 + k / 64 for k in range(9)]
    assert compare(one, other).difference == 0.25 and compare(one, other).p < 0.01
    for limits, outcome in (
        (Thresholds(absolute=0.25), Outcome.WORSE),
        (Thresholds(absolute=0.2501), Outcome.SAME),
        (Thresholds(relative=0.25 / 1.0625), Outcome.WORSE),
        (Thresholds(relative=0.26 / 1.0625), Outcome.SAME),
    ):
        assert compare(one, other, thresholds=limits).outcome is outcome, limits
        paired = [[a] for a in one], [[b] for b in other]
        assert compare_paired(*paired, thresholds=limits).outcome is outcome, limits
        # The same towards less (of a median that is larger): its size counts, not its sign.
        back = Thresholds(relative=limits.relative * 0.805, absolute=limits.absolute)
        better = Outcome.BETTER if outcome is Outcome.WORSE else outcome
        assert compare(other, one, thresholds=back).outcome is better, back
    same = Thresholds(alpha=compare(one, other).p)
    assert compare(one, other, thresholds=same).outcome is Outcome.SAME
    # Three and three have 20 assignments, of which two are the most extreme.
    few = [1.0, 1.1, 1.2], [9.0, 9.1, 9.2]
    assert compare(*few, thresholds=Thresholds(alpha=0.1)).outcome is Outcome.SAME
    assert compare(*few, thresholds=Thresholds(alpha=0.1001)).outcome is Outcome.WORSE
    assert compare(*few, thresholds=Thresholds(alpha=0.0999)).outcome is Outcome.TOO_FEW
    # Two pairs have four assignments of signs.
    two = [[1.0], [1.0]], [[2.0], [2.5]]
    assert compare_paired(*two, thresholds=Thresholds(alpha=0.51)).outcome is Outcome.WORSE
    assert compare_paired(*two, thresholds=Thresholds(alpha=0.5)).outcome is Outcome.SAME
    assert compare_paired(*two, thresholds=Thresholds(alpha=0.49)).outcome is Outcome.TOO_FEW
    assert Thresholds() == Thresholds(alpha=0.01, relative=0.05, absolute=0.0)


def test_too_few_samples_are_reported() -> None:
    assert compare([1.0, 1.1, 1.2], [9.0, 9.1, 9.2]).outcome is Outcome.TOO_FEW
    assert compare_paired([[1.0]] * 7, [[2.0]] * 7).outcome is Outcome.TOO_FEW
    assert compare_paired([[1.0]] * 8, [[2.0]] * 8).outcome is Outcome.WORSE
    with pytest.raises(ValueError, match="do not pair"):
        compare_paired([[1.0]], [])
    for left, right in ((0, 1), (1, 0), (0, 0)):
        with pytest.raises(ValueError, match="empty set"):
            comparison.rank_sum([1.0] * left, [1.0] * right)
    with pytest.raises(ValueError, match="empty set"):
        compare([], [1.0])
    with pytest.raises(ValueError, match="no pair"):
        comparison.signed_rank([])


TRIALS = 400
TOLERANCE = 3 * math.sqrt(0.95 * 0.05 / TRIALS)


def test_intervals_cover_the_true_ratio_of_medians_and_mean_as_stated() -> None:
    """From both sides: an interval that always holds the truth is too wide to be one of 95 %."""
    chance = random.Random(20260107)
    ratios = means = 0
    true_mean = math.exp(0.3**2 / 2)
    for trial in range(TRIALS):
        one, other = _noise(chance, 30), _noise(chance, 30, 1.5)
        found = statistics.ratio_of_medians(one, other, seed=trial)
        assert found.low is not None and found.high is not None
        ratios += found.low <= 1.5 <= found.high
        mean = statistics.mean(one, seed=trial)
        assert mean.low is not None and mean.high is not None
        means += mean.low <= true_mean <= mean.high
    assert abs(ratios / TRIALS - 0.95) <= TOLERANCE
    # With so few skewed samples a bootstrap covers a little less: 0.92 at 30.
    assert abs(means / TRIALS - 0.92) <= TOLERANCE


def test_bootstraps_are_reproducible_and_have_no_bounds_for_few_samples() -> None:
    samples = _noise(random.Random(1), 40)
    assert statistics.mean(samples) == statistics.mean(samples)
    assert not statistics.mean(samples[:7]).bounded
    assert statistics.mean([2.0] * 9) == Estimate(2.0, 2.0, 2.0)
    assert not statistics.ratio_of_medians(samples[:5], samples).bounded
    assert not statistics.ratio_of_medians([0.0] * 9, [1.0] * 9).bounded
    with pytest.raises(ValueError, match="no mean"):
        statistics.mean([])


def test_the_samples_needed_for_a_decision() -> None:
    samples = [float(k) for k in range(1, 101)]
    # Of 100 even steps 40 lie below 40: a median of 40 needs (0.98 / 0.1)^2 samples to exclude.
    assert statistics.samples_needed(samples, 50, 40.0) == 97
    assert statistics.samples_needed(samples, 50, 50.0) is None
    assert statistics.samples_needed(samples, 95, 1000.0) == 73


def test_the_samples_needed_suffice_in_simulation() -> None:
    chance = random.Random(20260108)
    need = statistics.samples_needed(_noise(chance, 2000), 50, 1.06)
    assert need and 150 < need < 800
    told = 0
    for _ in range(60):
        found = statistics.estimate(_noise(chance, 2 * need), 50)
        told += found.high is not None and found.high < 1.06
    assert told >= 40


def test_ranks_of_many_samples_agree_with_the_exact_ones() -> None:
    for percent in (50, 95, 99):
        exact = statistics.ranks(20_000, percent)
        near = statistics.ranks(20_001, percent)
        assert None not in (*exact, *near)
        assert all(abs((a or 0) - (b or 0)) <= 3 for a, b in zip(exact, near, strict=True))


def _run(median: float, reach: float = 0.02) -> Estimate:
    return Estimate(median, median * (1 - reach), median * (1 + reach))


def test_changes_of_a_history_must_exceed_its_own_noise() -> None:
    steady = [_run(1.0 + 0.15 * (k % 2)) for k in range(12)]
    found = comparison.changes(steady, "lower")
    # Until the noise is known, disjoint intervals are enough; afterwards they are not.
    assert found[:2] == [Outcome.WORSE, Outcome.BETTER]
    assert found[8:] == [Outcome.SAME] * 3
    assert comparison.changes([*steady, _run(3.0)], "lower")[-1] is Outcome.WORSE
    assert comparison.changes([_run(1.0), _run(0.5)], "lower") == [Outcome.BETTER]
    assert comparison.changes([_run(1.0), _run(0.5)], "higher") == [Outcome.WORSE]
    assert comparison.changes([_run(1.0), _run(1.05)], "lower") == [Outcome.SAME]
    assert comparison.changes([Estimate(1, None, None), _run(9)], "lower") == [Outcome.SAME]
    assert comparison.changes([_run(0.0), _run(9)], "lower") == [Outcome.SAME]
    assert comparison.changes([], "lower") == []

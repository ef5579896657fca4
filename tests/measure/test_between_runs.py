"""The spread between runs: its interval covers what it says, which a simulation counts."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest

from harness.measure import between_runs
from harness.measure.between_runs import FEWEST, MOST, student, typical
from harness.measure.statistics import Estimate, estimate

TRUTH = 0.005


def runs(
    chance: random.Random, many: int, between: float, within: float, samples: int = 15
) -> Sequence[Estimate]:
    """Runs whose level varies around TRUTH, each with samples that vary around its level."""
    found = []
    for _ in range(many):
        level = TRUTH * math.exp(chance.gauss(0, between))
        taken = [level * math.exp(chance.gauss(0, within)) for _ in range(samples)]
        found.append(estimate(taken, 50))
    return found


def coverage(many: int, between: float, within: float, times: int = 300) -> float:
    chance = random.Random(f"{many} {between} {within}")
    hits = 0
    for number in range(times):
        found = typical(runs(chance, many, between, within), seed=number)
        assert found and found.low is not None and found.high is not None
        hits += found.low <= TRUTH <= found.high
    return hits / times


@pytest.mark.parametrize("many", [3, 4, 8])
@pytest.mark.parametrize(("between", "within"), [(0.3, 0.1), (0.1, 0.1), (0.0, 0.2)])
def test_the_interval_covers_the_truth_as_often_as_it_says(
    many: int, between: float, within: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(between_runs, "RESAMPLES", 199)
    # 0.95 or more, less three standard errors of the count.
    assert coverage(many, between, within) >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / 300)


def test_one_runs_own_interval_would_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """What pages showed before: the simulation must be able to fail."""
    chance = random.Random(7)
    hits = 0
    for _ in range(300):
        (alone,) = runs(chance, 1, between=0.3, within=0.1)
        assert alone.low is not None and alone.high is not None
        hits += alone.low <= TRUTH <= alone.high
    assert hits / 300 < 0.5
    monkeypatch.setattr(between_runs, "RESAMPLES", 199)
    monkeypatch.setattr(between_runs, "student", lambda freedom, tail: 1.96)
    assert coverage(3, 0.3, 0.1) < 0.9


def test_few_runs_and_figures_that_are_not_positive_have_no_interval() -> None:
    chance = random.Random(1)
    assert typical(runs(chance, FEWEST - 1, 0.1, 0.1)) is None
    assert typical([Estimate(value, None, None) for value in (0.0, 1.0, 2.0)]) is None


def test_runs_without_an_interval_of_their_own_count_with_their_median() -> None:
    found = typical([Estimate(value, None, None) for value in (1.0, 2.0, 4.0)])
    assert found and found.value == pytest.approx(2.0)
    assert found.low and found.high and found.low < 1.0 and found.high > 4.0


def test_equal_runs_give_equal_bounds_and_only_the_newest_count() -> None:
    several = runs(random.Random(2), MOST + 5, 0.2, 0.1)
    assert typical(several) == typical(several[-MOST:])
    assert typical(several) != typical(several, seed=1)


@pytest.mark.parametrize("freedom", [*range(1, 32), 100])
def test_students_t(freedom: int) -> None:
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed")
    for tail in (0.1, 0.025, 0.005):
        assert student(freedom, tail) == pytest.approx(stats.t.ppf(1 - tail, freedom), rel=1e-9)

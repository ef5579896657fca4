"""How much a figure differs from run to run: a hierarchical bootstrap over the runs of a series.

A run's median has two errors. Within the run its samples vary, which the order-statistic interval
of the median shows; between runs everything else does: the day, the machine's state, where memory
lies. So two levels are drawn: runs with replacement, then in each a median from its own interval.

Few runs vary less than the population that they come from, and a plain percentile bootstrap of
three covers two times in three. The draws are widened by what Student's t is wider than the normal
distribution for this number of runs; tests/measure/test_between_runs.py simulates the coverage.
Everything is computed from logarithms, as times and sizes vary by factors.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from harness.measure.statistics import CONFIDENCE, RESAMPLES, Estimate

FEWEST = 3
"""Runs from which on there is an interval between them."""
MOST = 30
"""The newest runs that count: more would not narrow what is shown, and take longer."""
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Between:
    """The runs of one series: their number, on how many days and in how many lives of the machine
    (from one boot to the next; None where a record does not tell).

    `typical` is the geometric mean of their medians, with its interval; None for fewer runs than
    FEWEST, and where a median is not positive. `low` and `high` are the extreme medians.
    """

    runs: int
    days: int
    lives: int | None
    low: float
    high: float
    typical: Estimate | None


def typical(
    medians: Sequence[Estimate], confidence: float = CONFIDENCE, seed: int = 0
) -> Estimate | None:
    """The typical median of runs, each given with its own interval, in the same unit.

    None for fewer than FEWEST runs, and where one is not positive. Equal runs and seeds give equal
    bounds.
    """
    newest = medians[-MOST:]
    if len(newest) < FEWEST or any(one.value <= 0 for one in newest):
        return None
    n = len(newest)
    tail = (1 - confidence) / 2
    z = _NORMAL.inv_cdf(1 - tail)
    levels = [(math.log(one.value), _spread(one, z)) for one in newest]
    centre = math.fsum(level for level, _ in levels) / n
    chance = random.Random(seed)
    drawn = sorted(
        math.fsum(chance.gauss(*level) for level in chance.choices(levels, k=n)) / n - centre
        for _ in range(RESAMPLES)
    )
    # Draws of n runs vary by a factor of sqrt((n - 1) / n) less than n new runs would.
    wider = student(n - 1, tail) / z * math.sqrt(n / (n - 1))
    last = RESAMPLES - 1
    low, high = (drawn[round(share * last)] for share in (tail, 1 - tail))
    return Estimate(
        math.exp(centre), math.exp(centre + wider * low), math.exp(centre + wider * high)
    )


def _spread(median: Estimate, z: float) -> float:
    """The standard deviation of a run's logarithmic median; 0 where its samples give no bounds."""
    if median.low is None or median.high is None or median.low <= 0:
        return 0.0
    return math.log(median.high / median.low) / (2 * z)


def student(freedom: int, tail: float) -> float:
    """The value that Student's t with these degrees of freedom exceeds with probability `tail`."""
    low, high = 0.0, 1.0
    while _within(high, freedom) < 1 - 2 * tail:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < 1 - 2 * tail else (low, middle)
    return high


def _within(t: float, freedom: int) -> float:
    """The probability that |T| is at most t: the finite sums of Abramowitz and Stegun 26.7.3-4."""
    angle = math.atan(t / math.sqrt(freedom))
    square = math.cos(angle) ** 2
    odd = freedom % 2
    term, total = (math.cos(angle) if odd else 1.0), 0.0
    for k in range(2 + odd, freedom + 1, 2):
        total += term
        term *= square * (k - 1) / k
    if not odd:
        return math.sin(angle) * total
    return 2 / math.pi * (angle + math.sin(angle) * total)

"""The statistics of a series that pages show, as far as the number of its samples allows."""

from __future__ import annotations

from harness.measure import statistics
from harness.measure.conditions import is_readings
from harness.measure.record import Series
from harness.measure.statistics import Estimate

PERCENTILES = {"p50": 50, "p90": 90, "p95": 95, "p99": 99}


def estimates_of(series: Series) -> dict[str, Estimate]:
    """Every statistic that the number of samples allows.

    Repeated readings of one meter have a median and no interval, and nothing further out.
    """
    samples = series.samples
    if not samples:
        return {}
    stated = series.conditions
    if stated.readings if stated else is_readings(series.metric):
        middle = Estimate(statistics.percentile(samples, 50), None, None)
        return {"min": _exact(min(samples)), "p50": middle, "max": _exact(max(samples))}
    ordered = sorted(samples)
    found = {"min": _exact(ordered[0])}
    for name, percent in PERCENTILES.items():
        one = statistics.estimate_ordered(ordered, percent)
        if percent == 50 or one.bounded:
            found[name] = one
    found["max"] = _exact(ordered[-1])
    return found


def _exact(value: float) -> Estimate:
    return Estimate(value, None, None)

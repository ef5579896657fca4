"""The verdict of a record on a claim. Pure functions of samples: no input or output."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from harness.claims.claims import Answer, Claim
from harness.measure import statistics
from harness.measure.statistics import Estimate

OLD_DAYS = 180
"""A record older than this is stale."""
_PERCENT = {"p50": 50, "p90": 90, "p95": 95, "p99": 99}
_COUNTED = ("min", "max", "sum", "count")
"""Statistics of all samples, which need no estimate or interval."""


class Verdict(enum.StrEnum):
    """The verdicts, as pages show them."""

    SUPPORTED = "supported"
    CONTRADICTED = "contradicted"
    INCONCLUSIVE = "inconclusive"
    NOT_COMPARABLE = "not comparable"
    NOT_MEASURED = "not measured here"
    STALE = "stale"


@dataclass(frozen=True)
class Evidence:
    """The series that answers, from one record. `divisor` counts the answer's `per` metric."""

    samples: Sequence[float]
    failed: int = 0
    divisor: int = 1
    validity: str = "valid"
    stale: Sequence[str] = ()


@dataclass(frozen=True)
class Finding:
    """A verdict, our estimate in the claim's unit, and the reasons.

    `needed` is the number of samples that would decide an inconclusive one. `was` is the verdict
    that a stale record had when it was measured.
    """

    verdict: Verdict
    estimate: Estimate | None = None
    reasons: Sequence[str] = ()
    needed: int | None = None
    was: Verdict | None = None


def judge(claim: Claim, answer: Answer, evidence: Evidence | None) -> Finding:
    """The verdict is supported or contradicted only if the interval excludes the claimed value."""
    if evidence is None:
        return Finding(Verdict.NOT_MEASURED, None, ("there is no record of it here",))
    if not evidence.samples:
        what = (
            f"all {evidence.failed} attempts failed" if evidence.failed else "nothing was attempted"
        )
        return Finding(Verdict.NOT_MEASURED, None, (what,))
    found = estimate(answer, evidence)
    fresh = _fresh(claim, answer, evidence, found)
    if evidence.stale and fresh.verdict is not Verdict.NOT_COMPARABLE:
        return Finding(
            Verdict.STALE, found, (*evidence.stale, *fresh.reasons), fresh.needed, fresh.verdict
        )
    return fresh


def _fresh(claim: Claim, answer: Answer, evidence: Evidence, found: Estimate) -> Finding:
    if not answer.comparable:
        return Finding(Verdict.NOT_COMPARABLE, found, (answer.why, *evidence.stale))
    if evidence.validity != "valid":
        return Finding(Verdict.INCONCLUSIVE, found, (f"the run is {evidence.validity}",))
    bound = claim.bound(answer)
    assert bound is not None
    low, high = found.low, found.high
    if answer.statistic in _COUNTED:
        low = high = found.value
    elif low is None or high is None:
        needed = _needed(answer, evidence, bound)
        return Finding(Verdict.INCONCLUSIVE, found, ("too few samples for an interval",), needed)
    assert low is not None and high is not None
    counted = answer.statistic in _COUNTED
    below = high <= bound if counted else high < bound
    above = low >= bound if counted else low > bound
    holds, fails = (below, above) if answer.holds == "at-most" else (above, below)
    if holds:
        return Finding(Verdict.SUPPORTED, found)
    if fails:
        return Finding(Verdict.CONTRADICTED, found)
    return Finding(
        Verdict.INCONCLUSIVE,
        found,
        ("the interval includes the claimed value",),
        _needed(answer, evidence, bound),
    )


def estimate(answer: Answer, evidence: Evidence) -> Estimate:
    """The answer's statistic of the evidence, divided by the divisor."""
    samples = evidence.samples
    if answer.statistic == "mean":
        found = statistics.mean(samples)
    elif answer.statistic in _PERCENT:
        found = statistics.estimate(samples, _PERCENT[answer.statistic])
    else:
        count = {"min": min, "max": max, "sum": sum, "count": len}[answer.statistic]
        found = Estimate(float(count(samples)), None, None)  # type: ignore[operator]
    by = evidence.divisor

    def divided(value: float | None) -> float | None:
        return None if value is None else value / by

    return Estimate(found.value / by, divided(found.low), divided(found.high))


def _needed(answer: Answer, evidence: Evidence, bound: float) -> int | None:
    percent = _PERCENT.get(answer.statistic, 50)
    # A mean needs about as many samples as a median.
    return statistics.samples_needed(evidence.samples, percent, bound * evidence.divisor)


def deciding(findings: Sequence[Finding]) -> Finding:
    """The finding that decides a claim: the first with a verdict on the merits."""
    for one in findings:
        if one.verdict not in (Verdict.NOT_MEASURED, Verdict.NOT_COMPARABLE):
            return one
    for one in findings:
        if one.verdict is Verdict.NOT_COMPARABLE:
            return one
    return (
        findings[0] if findings else Finding(Verdict.NOT_MEASURED, None, ("no rig measures this",))
    )


def age(day: str, today: str) -> str | None:
    """Why a record of `day` is too old on `today`, or None if it is not; ISO dates."""
    days = (date.fromisoformat(today) - date.fromisoformat(day)).days
    return f"measured {days} days ago" if days > OLD_DAYS else None

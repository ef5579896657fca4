"""The verdict of a record on a claim. Pure functions of samples: no input or output."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from harness.claims.claims import Answer, Claim
from harness.measure import statistics
from harness.measure.conditions import Conditions
from harness.measure.statistics import Estimate

_PERCENT = {"p50": 50, "p90": 90, "p95": 95, "p99": 99}
_COUNTED = ("min", "max", "sum", "count")
"""Statistics of all samples, which need no estimate or interval."""


class Verdict(enum.StrEnum):
    """The verdicts, as pages show them. The first two need the claim's own system."""

    REPRODUCED = "reproduced"
    CONTRADICTED = "contradicted"
    REACHED = "reached here"
    NOT_REACHED = "not reached here"
    INCONCLUSIVE = "inconclusive"
    NOT_COMPARABLE = "not comparable"
    NOT_MEASURED = "not measured here"


HELD = (Verdict.REPRODUCED, Verdict.REACHED)
FAILED = (Verdict.CONTRADICTED, Verdict.NOT_REACHED)
JUDGED = (*HELD, *FAILED)
"""The verdicts on the merits: the whole interval lies on one side of the claimed value."""

MEANING = {
    Verdict.REPRODUCED: "The rig ran on the system that the claim is about, under the same "
    "definition, and our whole interval lies on the claim's side of the claimed value.",
    Verdict.CONTRADICTED: "The rig ran on the system that the claim is about, under the same "
    "definition, and our whole interval lies on the other side of the claimed value.",
    Verdict.REACHED: "Another system did the same job here under the same definition, and our "
    "whole interval lies on the claim's side of the claimed value. The claim itself was not "
    "tested.",
    Verdict.NOT_REACHED: "Another system did the same job here under the same definition, and our "
    "whole interval lies on the other side. The claim itself was not tested: it may well be true "
    "of its own system.",
    Verdict.INCONCLUSIVE: "Our interval includes the claimed value, there are too few samples for "
    "an interval, or the run was disturbed. The claim's page says how many samples would decide. "
    "Repeated readings of one meter have no interval: all of them must lie on one side.",
    Verdict.NOT_COMPARABLE: "The clocks or definitions differ, or the claim's is not stated. We "
    "show our figure and conclude nothing, however far apart the two are.",
    Verdict.NOT_MEASURED: "No record here addresses it. The claim's page names the command that "
    "would make one.",
}
"""What each verdict means; the claims page defines them with this text."""


def of_merits(holds: bool, same_system: bool) -> Verdict:
    """The verdict on the merits, by whose system was measured."""
    if same_system:
        return Verdict.REPRODUCED if holds else Verdict.CONTRADICTED
    return Verdict.REACHED if holds else Verdict.NOT_REACHED


@dataclass(frozen=True)
class Mark:
    """What has changed since a record was made, and the command that renews it.

    A mark stands beside the figure and changes no verdict: a record stays what it is.
    """

    name: str
    text: str
    command: str


@dataclass(frozen=True)
class Evidence:
    """The series that answers: its samples, and what it was measured on.

    `divisor` counts the answer's `per` metric, `system` is the system measured.
    """

    samples: Sequence[float]
    failed: int = 0
    divisor: int = 1
    validity: str = "valid"
    system: str = ""
    conditions: Conditions | None = None
    marks: Sequence[Mark] = ()


@dataclass(frozen=True)
class Ways:
    """Of the answers that were `judged` on the merits, how many `held`."""

    held: int
    judged: int


@dataclass(frozen=True)
class Finding:
    """A verdict, our estimate in the claim's unit, and the reasons.

    `needed` is the number of samples that would decide an inconclusive one. `system`, `conditions`
    and `marks` are those of the evidence. `ways` is set in the finding that decides the claim (see
    decision.py). `runs` notes other runs that lie on the other side of the claimed value.
    """

    verdict: Verdict
    estimate: Estimate | None = None
    reasons: Sequence[str] = ()
    needed: int | None = None
    system: str = ""
    conditions: Conditions | None = None
    marks: Sequence[Mark] = ()
    ways: Ways | None = None
    runs: Sequence[str] = ()

    @property
    def emulated(self) -> bool:
        """Whether the guests ran in software, without hardware virtualisation."""
        return self.conditions is not None and self.conditions.emulated

    @property
    def notes(self) -> Sequence[str]:
        """What must be read with the verdict: what ran the guests, where alone it is possible, what
        was rehearsed, in how many of several ways the claim held, and other runs that differ."""
        found = list(self.conditions.notes) if self.conditions else []
        if self.ways and self.ways.judged > 1:
            found.append(f"{self.ways.held} of {self.ways.judged} ways")
        return [*found, *self.runs]

    @property
    def text(self) -> str:
        """The verdict with its notes."""
        return ", ".join([self.verdict, *self.notes])


def judge(claim: Claim, answer: Answer, evidence: Evidence | None) -> Finding:
    """A verdict on the merits needs the whole interval on one side of the claimed value."""
    if evidence is None:
        return Finding(Verdict.NOT_MEASURED, None, ("there is no record of it here",))
    if not evidence.samples:
        what = (
            f"all {evidence.failed} attempts failed" if evidence.failed else "nothing was attempted"
        )
        return Finding(Verdict.NOT_MEASURED, None, (what,))
    found = estimate(answer, evidence)
    verdict, reasons, needed = _verdict(claim, answer, evidence, found)
    return Finding(
        verdict,
        found,
        reasons,
        needed,
        evidence.system,
        evidence.conditions,
        evidence.marks,
    )


def on_the_other_side(
    claim: Claim, answer: Answer, finding: Finding, values: Sequence[float]
) -> int:
    """How many of these values of other runs lie where the finding's verdict would be reversed.

    Their intervals are not asked for: this says how the verdict depends on the choice of the run.
    """
    bound = claim.bound(answer)
    if finding.verdict not in JUDGED or bound is None:
        return 0
    held = [one <= bound if answer.holds == "at-most" else one >= bound for one in values]
    return held.count(finding.verdict in FAILED)


def _verdict(
    claim: Claim, answer: Answer, evidence: Evidence, found: Estimate
) -> tuple[Verdict, Sequence[str], int | None]:
    """The verdict, its reasons, and the number of samples that it would take."""
    if not answer.comparable:
        return Verdict.NOT_COMPARABLE, (answer.why,), None
    if evidence.validity != "valid":
        return Verdict.INCONCLUSIVE, (f"the run is {evidence.validity}",), None
    bound = claim.bound(answer)
    assert bound is not None
    low, high = found.low, found.high
    counted = answer.statistic in _COUNTED
    if counted:
        low = high = found.value
    elif _readings(evidence):
        low, high = (each(evidence.samples) / evidence.divisor for each in (min, max))
    elif low is None or high is None:
        needed = _needed(answer, evidence, bound)
        return Verdict.INCONCLUSIVE, ("too few samples for an interval",), needed
    assert low is not None and high is not None
    below = high <= bound if counted else high < bound
    above = low >= bound if counted else low > bound
    holds, fails = (below, above) if answer.holds == "at-most" else (above, below)
    if holds or fails:
        return of_merits(holds, evidence.system == claim.system), (), None
    if _readings(evidence):
        return Verdict.INCONCLUSIVE, ("readings lie on both sides of the claimed value",), None
    reasons = ("the interval includes the claimed value",)
    return Verdict.INCONCLUSIVE, reasons, _needed(answer, evidence, bound)


def estimate(answer: Answer, evidence: Evidence) -> Estimate:
    """The answer's statistic of the evidence, divided by the divisor.

    Repeated readings of one meter have no interval: `judge` asks of all of them that they lie on
    one side of the claimed value.
    """
    samples = evidence.samples
    if answer.statistic == "mean":
        found = statistics.mean(samples)
    elif answer.statistic in _PERCENT:
        found = statistics.estimate(samples, _PERCENT[answer.statistic])
    else:
        count = {"min": min, "max": max, "sum": sum, "count": len}[answer.statistic]
        found = Estimate(float(count(samples)), None, None)  # type: ignore[operator]
    if _readings(evidence):
        found = Estimate(found.value, None, None)
    by = evidence.divisor

    def divided(value: float | None) -> float | None:
        return None if value is None else value / by

    return Estimate(found.value / by, divided(found.low), divided(found.high))


def _readings(evidence: Evidence) -> bool:
    return evidence.conditions is not None and evidence.conditions.readings


def _needed(answer: Answer, evidence: Evidence, bound: float) -> int | None:
    percent = _PERCENT.get(answer.statistic, 50)
    # A mean needs about as many samples as a median.
    return statistics.samples_needed(evidence.samples, percent, bound * evidence.divisor)

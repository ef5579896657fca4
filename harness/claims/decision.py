"""Which of several answers decides a claim. Pure functions: no input or output.

The rule, in this order: the system that the claim is about before any other; then the series whose
dimensions differ least from the claim's `configuration`; then hardware virtualisation before
emulation; of equally near ones the one that is least favourable. The order in claims.yaml decides
nothing, except which figure is shown where none is comparable. The other comparable answers are
counted beside the decider.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.claims.claims import Answer, Claim
from harness.claims.verdict import FAILED, HELD, JUDGED, Finding, Verdict, Ways
from harness.measure.record import Facts

RULE = (
    "If several comparable measurements address a claim, the one nearest to the claim's own "
    "configuration decides: first the system that the claim is about, then the series that "
    "differs from the claim's configuration in the fewest dimensions, then hardware "
    "virtualisation before emulation. Of equally near ones the least favourable decides. The "
    "others are counted beside it."
)
"""The rule as pages state it."""

_OPEN = (Verdict.NOT_MEASURED, Verdict.NOT_COMPARABLE)


@dataclass(frozen=True)
class Candidate:
    """An answer, its finding, and the dimensions of the series behind it."""

    answer: Answer
    finding: Finding
    dimensions: Facts


def distance(claim: Claim, one: Candidate) -> tuple[bool, int, bool, int, float]:
    """How far an answer is from the claim's own configuration; less is nearer."""
    found = one.finding
    different = sum(
        name not in one.dimensions or one.dimensions[name] != value
        for name, value in claim.configuration.items()
    )
    favour = 0 if found.verdict in FAILED else 2 if found.verdict in HELD else 1
    # Values under different clocks are in no order: of these the first in the file is shown.
    compared = found.estimate is not None and found.verdict not in _OPEN
    value = found.estimate.value if compared and found.estimate else 0.0
    worse = -value if one.answer.holds == "at-most" else value
    return found.system != claim.system, different, found.emulated, favour, worse


def deciding(claim: Claim, several: Sequence[Candidate]) -> int | None:
    """The index of the answer that decides: comparable ones first, then measured ones."""
    if not several:
        return None
    comparable = [at for at, one in enumerate(several) if one.finding.verdict not in _OPEN]
    measured = [
        at for at, one in enumerate(several) if one.finding.verdict is not Verdict.NOT_MEASURED
    ]
    return min(comparable or measured or [0], key=lambda at: distance(claim, several[at]))


def ways(several: Sequence[Finding]) -> Ways:
    """How many of the answers judged on the merits held."""
    judged = [one.verdict for one in several if one.verdict in JUDGED]
    return Ways(sum(one in HELD for one in judged), len(judged))

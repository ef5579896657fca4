"""Which of several answers decides: the nearest to the claim's own configuration, in any order."""

from __future__ import annotations

import itertools
from dataclasses import replace

from harness.claims import decision
from harness.claims.claims import Answer, Claim
from harness.claims.decision import Candidate
from harness.claims.verdict import Finding, Verdict, Ways
from harness.measure.conditions import Conditions, Reach
from harness.measure.record import Scalar
from harness.measure.statistics import Estimate
from tests.claims.test_verdict import ANSWER, CLAIM

OWN = CLAIM.system
DENSE = replace(CLAIM, configuration={"sharing": "mapped", "n": 8})


def one(
    verdict: Verdict,
    system: str = "other",
    *,
    emulated: bool = False,
    value: float = 1.0,
    answer: Answer = ANSWER,
    **dimensions: Scalar,
) -> Candidate:
    ran_on = Conditions("tcg" if emulated else "kvm", Reach.ANYWHERE)
    found = Finding(verdict, Estimate(value, None, None), system=system, conditions=ran_on)
    return Candidate(answer, found, dimensions)


def decides(claim: Claim, *several: Candidate) -> Candidate:
    """The decider, which must be the same in every order."""
    found = set()
    for order in itertools.permutations(range(len(several))):
        at = decision.deciding(claim, [several[number] for number in order])
        assert at is not None
        found.add(order[at])
    assert len(found) == 1
    return several[found.pop()]


def test_the_claims_own_system_decides_before_any_nearer_dimensions() -> None:
    own = one(Verdict.REPRODUCED, OWN)
    near = one(Verdict.NOT_REACHED, sharing="mapped", n=8)
    assert decides(DENSE, near, own) is own


def test_the_series_that_differs_in_the_fewest_dimensions_decides() -> None:
    near = one(Verdict.REACHED, sharing="mapped", n=8, emulated=True)
    nearly = one(Verdict.NOT_REACHED, sharing="forked", n=8)
    far = one(Verdict.NOT_REACHED, sharing="forked", n=50)
    assert decides(DENSE, near, nearly, far) is near
    assert decides(DENSE, nearly, far) is nearly
    # A dimension that a series lacks differs, too.
    assert decides(DENSE, one(Verdict.NOT_REACHED, n=8), near) is near


def test_hardware_decides_before_emulation() -> None:
    real = one(Verdict.REACHED, sharing="mapped", n=8)
    emulated = one(Verdict.NOT_REACHED, emulated=True, sharing="mapped", n=8)
    assert decides(DENSE, emulated, real) is real


def test_of_equally_near_answers_the_least_favourable_decides() -> None:
    good, bad = one(Verdict.REACHED), one(Verdict.NOT_REACHED)
    unsure = one(Verdict.INCONCLUSIVE)
    assert decides(CLAIM, good, bad, unsure) is bad
    assert decides(CLAIM, good, unsure) is unsure
    more, less = one(Verdict.REACHED, value=3.0), one(Verdict.REACHED, value=2.0)
    assert decides(CLAIM, more, less) is more
    rate = replace(ANSWER, holds="at-least")
    fast = one(Verdict.REACHED, value=3.0, answer=rate)
    slow = one(Verdict.REACHED, value=2.0, answer=rate)
    assert decides(CLAIM, fast, slow) is slow


def test_what_cannot_be_compared_decides_only_where_nothing_else_was_measured() -> None:
    missing, other = one(Verdict.NOT_MEASURED, OWN), one(Verdict.NOT_COMPARABLE, OWN)
    unsure = one(Verdict.INCONCLUSIVE)
    assert decides(CLAIM, missing, other, unsure) is unsure
    assert decides(CLAIM, missing, other) is other
    assert decision.deciding(CLAIM, [missing]) == 0
    assert decision.deciding(CLAIM, []) is None


def test_only_verdicts_on_the_merits_are_counted() -> None:
    several = [one(verdict).finding for verdict in Verdict]
    assert decision.ways(several) == Ways(2, 4)
    assert decision.ways([]) == Ways(0, 0)

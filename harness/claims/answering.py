"""Whether a series answers a claim, by its dimensions."""

from __future__ import annotations

from harness.claims.claims import Answer
from harness.measure.conditions import GUEST_KERNEL, SYSTEM
from harness.measure.record import Facts

NOOP = "noop"
"""The substrate that makes no sandbox."""


def answers(dimensions: Facts, answer: Answer) -> bool:
    """Whether a series of the answer's rig and metric with these dimensions answers.

    `noop` has no sandbox, so it answers no claim about one. An endpoint's series answers only where
    its system is named, and one of guests with a kernel of choice only where that is named. A
    dimension of null must be absent.
    """
    wanted = answer.where
    if dimensions.get("substrate") == NOOP and "substrate" not in wanted:
        return False
    if any(name in dimensions and name not in wanted for name in (SYSTEM, GUEST_KERNEL)):
        return False
    return all(dimensions.get(name) == value for name, value in wanted.items())

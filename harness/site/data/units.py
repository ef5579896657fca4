"""The unit in which our figure stands beside a published one."""

from __future__ import annotations

from harness.claims.published import Figure, written_unit
from harness.measure.quantity import Scale

_LEGIBLE = (0.01, 1e5)


def unit_beside(like: Figure | None, value: float, unit: str) -> Scale | None:
    """The unit of a published figure that ours stands beside, if ours is legible in it."""
    if like is None or like.unit != unit or not (given := written_unit(like.as_written)):
        return None
    low, high = _LEGIBLE
    return given if low <= abs(value) / given[0] < high else None

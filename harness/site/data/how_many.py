"""How many guests, entries or calls a series is about, as text: what its dimensions say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from harness.measure.quantity import thousands
from harness.measure.record import Facts, Scalar

NUMBERS = ("n", "concurrency", "others")
"""The dimensions that are numbers of sandboxes, entries or calls."""


def text(dimensions: Facts) -> str:
    """Such as "4 guests" or "1 000 entries, 20 other sandboxes"; empty for one alone."""
    return ", ".join(_parts(dimensions))


def _parts(dimensions: Facts) -> Iterator[str]:
    n, at_once, others = (_number(dimensions, name) for name in NUMBERS)
    if n is not None:
        yield _counted(n, *_noun(dimensions))
    if at_once is not None and at_once > 1:
        yield f"{thousands(at_once)} at once"
    if others:
        yield _counted(others, "other sandbox", "other sandboxes")


def _noun(dimensions: Facts) -> tuple[str, str]:
    if "transport" in dimensions:
        return "entry", "entries"
    if "substrate" in dimensions:
        return "guest", "guests"
    return "sandbox", "sandboxes"


def _counted(many: int, single: str, plural: str) -> str:
    return f"{thousands(many)} {single if many == 1 else plural}"


def _number(dimensions: Mapping[str, Scalar], name: str) -> int | None:
    value = dimensions.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def nearness(dimensions: Facts, wanted: Facts) -> tuple[int, ...]:
    """How much of the wanted numbers a series reaches; more is nearer, and more than wanted is no
    better."""
    return tuple(
        min(_number(dimensions, name) or 0, _number(wanted, name) or 0)
        for name in NUMBERS
        if name in wanted
    )

"""Formats quantities with readable units, to the digits that their intervals support."""

from __future__ import annotations

import math

from harness.measure.statistics import Estimate

_STEPS = {
    "s": ((1.0, "s"), (1e-4, "ms"), (1e-7, "µs"), (0.0, "ns")),
    "bytes": ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (0.0, "B")),
    "bytes/s": ((1e9 / 8, "Gbit/s"), (1e6 / 8, "Mbit/s"), (0.0, "B/s")),
    "1/s": ((1e6, "M/s"), (1e3, "k/s"), (0.0, "/s")),
    "1": ((0.0, ""),),
}
_SIZE = {"ms": 1e-3, "µs": 1e-6, "ns": 1e-9, "B": 1.0, "B/s": 1.0, "/s": 1.0, "": 1.0}
_FEWEST, _MOST = 2, 4


def scale(value: float, unit: str) -> tuple[float, str]:
    """The size and name of a readable unit for `value`; `unit` is the record's unit."""
    for threshold, name in _STEPS[unit]:
        if abs(value) >= threshold:
            return _SIZE.get(name, threshold), name
    raise AssertionError(f"no step for {value} {unit}")


def _exponent(value: float) -> int:
    return math.floor(math.log10(abs(value))) if value else 0


def decimals(value: float, width: float | None) -> int:
    """Decimal places for `value`, to the first digit of its interval's `width`.

    That is 2 to 4 significant digits, and 2 without an interval. May be negative.
    """
    digits = _FEWEST
    if width is not None:
        place = _exponent(width) if width > 0 else -99
        digits = min(max(_exponent(value) - place + 1, _FEWEST), _MOST)
    return digits - 1 - _exponent(value)


def thousands(count: float) -> str:
    """A whole number with separated thousands: 1 000."""
    return f"{count:,.0f}".replace(",", "\u202f")


def _fixed(value: float, places: int) -> str:
    """A number with separated thousands, and a true minus sign."""
    if not value:
        return "0"
    text = f"{round(abs(value), places):.{max(places, 0)}f}"
    whole, dot, rest = text.partition(".")
    return ("\u2212" if value < 0 else "") + thousands(int(whole)) + dot + rest


Scale = tuple[float, str]
"""The size and the name of a unit."""


def show(estimate: Estimate, unit: str, given: Scale | None = None) -> str:
    """The value and its unit: 0.51 ms. In the given unit if there is one."""
    size, name = given or scale(estimate.value, unit)
    value = estimate.value / size
    return f"{_fixed(value, decimals(value, _width(estimate, size)))} {name}".strip()


def _width(estimate: Estimate, size: float) -> float | None:
    if estimate.low is None or estimate.high is None:
        return None
    return (estimate.high - estimate.low) / size


def show_interval(estimate: Estimate, unit: str, given: Scale | None = None) -> str:
    """Both bounds in the value's unit, rounded outward: 0.50–0.52. Empty without bounds."""
    width = _width(estimate, 1)
    if width is None or estimate.low is None or estimate.high is None:
        return ""
    size, _ = given or scale(estimate.value, unit)
    places = decimals(estimate.value / size, width / size)
    step = 10.0**places
    # A floating-point error must not move a bound that is a multiple of the step.
    low = math.floor(round(estimate.low / size * step, 6)) / step
    high = math.ceil(round(estimate.high / size * step, 6)) / step
    between = "–" if low >= 0 else " to "
    return f"{_fixed(low, places)}{between}{_fixed(high, places)}"

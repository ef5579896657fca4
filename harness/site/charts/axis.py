"""Axes: the position of a value between 0 and 1, and which ticks to label."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.measure.quantity import scale

_STEPS = (1, 2, 5)
_TINY = 1e-9
_MIB = 1 << 20


@dataclass(frozen=True)
class Tick:
    value: float
    label: str


@dataclass(frozen=True)
class Axis:
    """`low` and `high` in the unit of the samples; `ticks` are labelled, `minor` are not."""

    low: float
    high: float
    log: bool
    ticks: Sequence[Tick]
    minor: Sequence[float] = ()

    def places(self, values: Iterable[float]) -> list[float]:
        """`place` of each."""
        if self.log:
            start = math.log(self.low)
            span = math.log(self.high) - start
            found = [(math.log(one) - start) / span if one > 0 else 0.0 for one in values]
        else:
            low, span = self.low, self.high - self.low
            found = [(one - low) / span for one in values]
        return [min(max(share, 0.0), 1.0) for share in found]

    def place(self, value: float) -> float:
        """0 at `low`, 1 at `high`; values outside are clamped."""
        if self.log:
            if value <= 0:
                return 0.0
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return min(max(share, 0.0), 1.0)


def label(value: float, unit: str, like: float | None = None) -> str:
    """A tick's label, such as 10 ms. `like` is the value whose unit the whole axis uses."""
    # A rounding error in the last bit must not turn 1 ms into 1000 µs.
    size, name = scale((value if like is None else like) * (1 + _TINY), unit)
    return f"{value / size:.6g} {name}".strip()


def decades(values: Iterable[float], unit: str) -> Axis:
    """A logarithmic axis from one power of ten to another, with every decade labelled.

    For bytes the decades are powers of ten of MiB: powers of ten of bytes are round in no unit.
    """
    one = float(_MIB) if unit == "bytes" else 1.0
    positive = [value / one for value in values if value > 0] or [1e-3, 1.0]
    first = math.floor(math.log10(min(positive)) + _TINY)
    last = math.ceil(math.log10(max(positive)) - _TINY)
    last = max(last, first + 1)
    ticks = tuple(Tick(10.0**k * one, _decade(k, unit)) for k in range(first, last + 1))
    minor = tuple(step * 10.0**k * one for k in range(first, last) for step in (2, 5))
    return Axis(10.0**first * one, 10.0**last * one, True, ticks, minor)


def _decade(exponent: int, unit: str) -> str:
    if unit == "bytes":
        return f"{10.0**exponent:,.6g} MiB".replace(",", "\u202f")
    if unit != "s":
        return label(10.0**exponent, unit)
    # In steps of three, so that 100 µs is not written 0.1 ms beside 10 µs.
    index = min(exponent // 3, 0)
    names = {0: "s", -1: "ms", -2: "µs", -3: "ns"}
    index = max(index, -3)
    return f"{10.0 ** (exponent - 3 * index):.6g} {names[index]}"


def fitting(values: Iterable[float], unit: str) -> Axis:
    """Logarithmic for values that span more than a factor of 20, else linear with round ends."""
    known = list(values) or [0.0, 1.0]
    low, high = min(known), max(known)
    if low > 0 and high / low > 20:
        return _half_decades(low, high, unit)
    return linear(low, high, unit)


def _half_decades(low: float, high: float, unit: str) -> Axis:
    """A logarithmic axis that ends on 1, 2 or 5 times a power of ten."""
    first = math.floor(math.log10(low))
    last = math.ceil(math.log10(high))
    stops = [step * 10.0**k for k in range(first, last + 1) for step in _STEPS]
    start = max(stop for stop in stops if stop <= low * (1 + _TINY))
    end = min(stop for stop in stops if stop >= high * (1 - _TINY))
    inside = [stop for stop in stops if start <= stop <= end]
    whole = [stop for stop in inside if abs(math.log10(stop) % 1) < 1e-6]
    shown = inside if len(inside) <= 6 else whole
    return Axis(
        start,
        end,
        True,
        tuple(Tick(stop, label(stop, unit)) for stop in shown),
        tuple(stop for stop in inside if stop not in shown),
    )


def linear(low: float, high: float, unit: str) -> Axis:
    """About five ticks at 1, 2 or 5 times a power of ten; the ends are ticks."""
    span = (high - low) or abs(high) * 0.2 or 1.0
    if high == low:
        low, high = low - span / 2, high + span / 2
    power = 10.0 ** math.floor(math.log10(span / 4))
    step = next(step * power for step in (1, 2, 5, 10) if step * power >= span / 4 * (1 - _TINY))
    first = math.floor(low / step + _TINY)
    last = math.ceil(high / step - _TINY)
    values = [k * step for k in range(first, last + 1)]
    return Axis(
        values[0], values[-1], False, tuple(Tick(v, label(v, unit, like=high)) for v in values)
    )

"""How a figure is written: unit, digits that its interval supports, and the way to its record.

Every figure on the site passes through here, so that none can be typed and none can lose the
mark of a suspect run.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from markupsafe import Markup, escape

from harness.claims.published import Figure
from harness.measure import statistics
from harness.measure.record import Series
from harness.measure.statistics import Estimate
from harness.site.corpus import Entry, anchor

Link = Callable[[str], str]
"""From a path below the site's root to an address relative to the page that shows it."""

_STEPS = {
    "s": ((1.0, "s"), (1e-4, "ms"), (1e-7, "µs"), (0.0, "ns")),
    "bytes": ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"), (0.0, "B")),
    "bytes/s": ((1e9 / 8, "Gbit/s"), (1e6 / 8, "Mbit/s"), (0.0, "B/s")),
    "1/s": ((1e6, "M/s"), (1e3, "k/s"), (0.0, "/s")),
    "1": ((0.0, ""),),
}
_SIZE = {"ms": 1e-3, "µs": 1e-6, "ns": 1e-9, "B": 1.0, "B/s": 1.0, "/s": 1.0, "": 1.0}
PERCENTILES = {"p50": 50, "p90": 90, "p95": 95, "p99": 99}
_FEWEST, _MOST = 2, 4


def scale(value: float, unit: str) -> tuple[float, str]:
    """The size and name of the unit that people read `value` in; `unit` is the record's."""
    for threshold, name in _STEPS[unit]:
        if abs(value) >= threshold:
            return _SIZE.get(name, threshold), name
    raise AssertionError(f"no step for {value} {unit}")


def _exponent(value: float) -> int:
    return math.floor(math.log10(abs(value))) if value else 0


def decimals(value: float, width: float | None) -> int:
    """Decimal places for `value`, down to the first digit of its interval's `width`.

    Between 2 and 4 significant digits; without an interval 2. May be negative.
    """
    digits = _FEWEST
    if width is not None:
        place = _exponent(width) if width > 0 else -99
        digits = min(max(_exponent(value) - place + 1, _FEWEST), _MOST)
    return digits - 1 - _exponent(value)


def _fixed(value: float, places: int) -> str:
    text = f"{round(value, places):.{max(places, 0)}f}"
    whole, dot, rest = text.partition(".")
    return f"{int(whole):,}".replace(",", "\u202f") + dot + rest if len(whole) > 4 else text


def show(estimate: Estimate, unit: str) -> str:
    """The value with its unit: 0.51 ms."""
    size, name = scale(estimate.value, unit)
    value = estimate.value / size
    return f"{_fixed(value, decimals(value, _width(estimate, size)))} {name}".strip()


def _width(estimate: Estimate, size: float) -> float | None:
    if estimate.low is None or estimate.high is None:
        return None
    return (estimate.high - estimate.low) / size


def show_interval(estimate: Estimate, unit: str) -> str:
    """Both bounds in the value's unit, rounded outwards: 0.50–0.52; empty without bounds."""
    width = _width(estimate, 1)
    if width is None or estimate.low is None or estimate.high is None:
        return ""
    size, _ = scale(estimate.value, unit)
    places = decimals(estimate.value / size, width / size)
    step = 10.0**places
    # A bound that is already a multiple of the step must not move by a rounding error.
    low = math.floor(round(estimate.low / size * step, 6)) / step
    high = math.ceil(round(estimate.high / size * step, 6)) / step
    return f"{_fixed(low, places)}–{_fixed(high, places)}"


def get(series: Series, statistic: str) -> Estimate | None:
    """A statistic of a series; None where there are too few samples for it."""
    samples = series.samples
    if not samples:
        return None
    if statistic == "min":
        return Estimate(min(samples), None, None)
    if statistic == "max":
        return Estimate(max(samples), None, None)
    percent = PERCENTILES[statistic]
    found = statistics.estimate(samples, percent)
    return found if percent == 50 or found.bounded else None


def why_absent(series: Series, statistic: str) -> str:
    """In words, why `get` gave None."""
    if not series.samples:
        return f"all {len(series.failures)} failed" if series.failures else "no sample"
    need = statistics.smallest_n(PERCENTILES[statistic])
    return f"needs {need} samples, has {len(series.samples)}"


def data(value: float, text: str, href: str) -> Markup:
    """The one form in which a figure stands on a page."""
    return Markup('<data value="{}"><a href="{}">{}</a></data>').format(repr(value), href, text)


def mark(entry: Entry, link: Link) -> Markup:
    """The visible mark of a run that is not valid; empty for one that is."""
    status = entry.record.validity.status
    if status == "valid":
        return Markup("")
    return Markup(' <a class="mark {}" href="{}#validity">{}</a>').format(
        status, link(entry.page), status
    )


def figure(
    entry: Entry, series: Series, statistic: str, link: Link, *, interval: bool = False
) -> Markup:
    """A statistic of a record's series, linked to its row on the run's page, with its mark."""
    estimate = get(series, statistic)
    if estimate is None:
        return Markup('<span class="absent">{}</span>{}').format(
            why_absent(series, statistic), mark(entry, link)
        )
    href = f"{link(entry.page)}#{anchor(entry.record, series)}.{statistic}"
    shown = data(estimate.value, show(estimate, series.unit), href)
    bounds = show_interval(estimate, series.unit) if interval else ""
    if bounds:
        shown += Markup(' <span class="interval">{}</span>').format(bounds)
    return shown + mark(entry, link)


def count(entry: Entry, number: int, place: str, link: Link) -> Markup:
    """A count taken from a record: of samples, of failures."""
    return data(number, str(number), f"{link(entry.page)}#{place}")


def clock_figure(entry: Entry, nanoseconds: float, link: Link) -> Markup:
    """A clock's resolution or overhead, as its record states it."""
    size, name = scale(nanoseconds * 1e-9, "s")
    text = f"{nanoseconds * 1e-9 / size:.3g} {name}"
    return data(nanoseconds * 1e-9, text, f"{link(entry.page)}#clock")


def quoted(one: Figure, link: Link) -> Markup:
    """A published figure as its source writes it, linked to who says so."""
    href = f"{link('published.html')}#{one.id}"
    if one.value is None:
        return Markup('<a href="{}">{}</a>').format(href, one.as_written)
    return data(one.value, one.as_written, href)


def bytes_text(value: float) -> str:
    """A size that is no measurement, such as a machine's memory."""
    return show(Estimate(value, value * 0.999, value * 1.001), "bytes")


__all__ = [
    "Link",
    "bytes_text",
    "clock_figure",
    "count",
    "data",
    "decimals",
    "escape",
    "figure",
    "get",
    "mark",
    "quoted",
    "scale",
    "show",
    "show_interval",
    "why_absent",
]

"""How a figure is written: unit, digits that its interval supports, and the way to its record.

Every figure on the site passes through here, so that none can be typed and none can lose the
mark of a suspect run.
"""

from __future__ import annotations

from collections.abc import Callable

from markupsafe import Markup

from harness.claims.published import Figure
from harness.measure import statistics
from harness.measure.quantity import scale, show, show_interval
from harness.measure.record import Series
from harness.measure.statistics import Estimate
from harness.site.corpus import Entry, anchor

Link = Callable[[str], str]
"""From a path below the site's root to an address relative to the page that shows it."""

PERCENTILES = {"p50": 50, "p90": 90, "p95": 95, "p99": 99}


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


def divided(estimate: Estimate, by: int) -> Estimate:
    """An estimate of a sum, as what it is for each of so many."""
    low, high = estimate.low, estimate.high
    return Estimate(
        estimate.value / by,
        None if low is None else low / by,
        None if high is None else high / by,
    )


def per(entry: Entry, series: Series, statistic: str, by: int, link: Link) -> Markup:
    """A statistic of a series divided by a count; linked to the undivided one."""
    estimate = get(series, statistic)
    if estimate is None or not by:
        return figure(entry, series, statistic, link)
    href = f"{link(entry.page)}#{anchor(entry.record, series)}.{statistic}"
    each = divided(estimate, by)
    return data(each.value, show(each, series.unit), href) + mark(entry, link)


def derived(
    entry: Entry, series: Series, estimate: Estimate, unit: str, link: Link, statistic: str = "p50"
) -> Markup:
    """A figure worked out of several series of a record; linked to the one that it is about."""
    href = f"{link(entry.page)}#{anchor(entry.record, series)}.{statistic}"
    shown = data(estimate.value, show(estimate, unit), href)
    bounds = show_interval(estimate, unit)
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

"""Figures inside running sentences: the value alone, and its marks where the sentence ends."""

from __future__ import annotations

from markupsafe import Markup

from harness.measure.quantity import show, show_interval
from harness.measure.statistics import Estimate
from harness.site.data import figures
from harness.site.data.corpus import RecordEntry
from harness.site.data.figures import AnySeries, Link


def inline(entry: RecordEntry, series: AnySeries, statistic: str, link: Link) -> Markup:
    """A statistic of a series for the middle of a sentence; `aside` belongs at its end."""
    estimate = figures.get(series, statistic)
    if estimate is None or figures.withheld(entry, series):
        return figures.figure(entry, series, statistic, link)
    return inline_of(entry, series, estimate, series.unit, link, statistic)


def inline_of(
    entry: RecordEntry,
    series: AnySeries,
    estimate: Estimate,
    unit: str,
    link: Link,
    statistic: str = "p50",
) -> Markup:
    """The same of a figure computed from several series, linked to the main one."""
    href = f"{link(entry.page)}#{figures.place(entry, series, statistic)}"
    shown = figures.data(estimate.value, show(estimate, unit), href, unit)
    bounds = show_interval(estimate, unit)
    return shown + (
        Markup(' (<span class="interval">{}</span>)').format(bounds) if bounds else Markup("")
    )


def aside(entry: RecordEntry, series: AnySeries, link: Link) -> Markup:
    """The notes and marks of a sentence's figures, which are of one run, in brackets."""
    parts = [one.strip() for one in (figures.noted(entry, series), figures.mark(entry, link))]
    told = Markup("; ").join(one for one in parts if one)
    return Markup(' <span class="aside">({})</span>').format(told) if told else Markup("")

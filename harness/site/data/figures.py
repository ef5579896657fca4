"""How a figure is shown: its unit, the digits that its interval supports, the link to its record.

Every figure on the site goes through this module, so that none is typed by hand and none lacks
the mark of a suspect run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from markupsafe import Markup, escape

from harness.claims.published import Figure
from harness.measure import statistics
from harness.measure.between_runs import Between
from harness.measure.conditions import NOT_RECORDED, Conditions
from harness.measure.quantity import Scale, scale, show, show_interval, thousands
from harness.measure.record import Scalar, Series, conditions_of
from harness.measure.statistics import Estimate
from harness.site.data import how_many
from harness.site.data.addresses import published_page
from harness.site.data.corpus import RecordEntry, anchor
from harness.site.data.estimates import PERCENTILES, estimates_of
from harness.site.data.record_summary import COUNTED, SeriesSummary
from harness.site.data.series_kind import SeriesKind, series_kind
from harness.site.data.units import unit_beside

Link = Callable[[str], str]
"""Turns a path below the site's root into an address relative to the page."""

AnySeries = Series | SeriesSummary
"""A series with its samples, or a summary of one."""
_NO_MARK = Markup("")
STATISTICS = ("min", *PERCENTILES, "max")
ONE_RUN = "one run"


def get(series: AnySeries, statistic: str) -> Estimate | None:
    """A statistic of a series; None if there are too few samples for it."""
    if isinstance(series, SeriesSummary):
        return series.get(statistic)
    if statistic == "mean" and series.samples:
        return statistics.mean(series.samples)
    return known(series).get(statistic)


def known(series: Series) -> Mapping[str, Estimate]:
    """The estimates of a series, computed once: pages and charts need the same ones."""
    # Stored in the object to be freed with it, but not as a field, so that equality ignores it.
    held: dict[str, Mapping[str, Estimate]] = series.__dict__
    if "_known" not in held:
        held["_known"] = estimates_of(series)
    return held["_known"]


def size(series: AnySeries) -> tuple[int, int]:
    """The number of samples and of failures."""
    if isinstance(series, SeriesSummary):
        return series.n, series.failed
    return len(series.samples), len(series.failures)


def why_absent(series: AnySeries, statistic: str) -> str:
    """The reason, as text, why `get` returned None."""
    samples, failed = size(series)
    if not samples:
        return f"all {failed} failed" if failed else "no sample"
    need = statistics.smallest_n(PERCENTILES[statistic])
    return f"needs {need} samples, has {samples}"


def withheld(entry: RecordEntry, series: AnySeries) -> bool:
    """Whether a series' figures are hidden: those that prove function alone, except for counts."""
    return series.unit != COUNTED and bool(entry.summary.proves(series))


def proved(entry: RecordEntry, series: AnySeries, link: Link | None = None) -> Markup:
    """What a function-only series shows instead of figures: with how many guests or entries it
    worked, and how many attempts did. With a link, it has the mark of a run that is not valid."""
    samples, _ = size(series)
    words = "function proved" if samples else "function not proved"
    if link:
        href = f"{link(entry.page)}#{place(entry, series, 'p50')}"
        words = Markup('<a href="{}">{}</a>').format(href, words)
    kind = "function-proved" if samples else "function-not-proved"
    badge = Markup('<span class="badge {}">{}</span>').format(kind, words)
    told = ", ".join(attempts(entry, series))
    of = Markup(' <small class="of">{}</small>').format(told) if told else _NO_MARK
    return badge + of + (disturbed(entry, link) if link else _NO_MARK)


def attempts(entry: RecordEntry, series: AnySeries) -> Sequence[str]:
    """With how many it was tried, and how many attempts worked: readings are no attempts."""
    samples, failed = size(series)
    many = how_many.text(series.dimensions)
    told = [f"with {many}"] if many else []
    if not conditions(entry, series).readings:
        told.append(f"{samples} of {samples + failed}")
    return told


def place(entry: RecordEntry, series: AnySeries, statistic: str = "") -> str:
    """The anchor of a series, or of one of its statistics, on the run's page."""
    name = series.anchor if isinstance(series, SeriesSummary) else anchor(entry.record, series)
    return f"{name}.{statistic}" if statistic in STATISTICS else name


def data(value: float, text: str, href: str, unit: str, facts: str = "") -> Markup:
    """The HTML of every figure; CSV files and sorting need the unit, which the text has scaled.

    `facts` are further attributes.
    """
    return Markup(
        f'<data value="{value!r}" data-unit="{escape(unit)}"{facts}>'
        f'<a href="{escape(href)}">{escape(text)}</a></data>'
    )


def mark(entry: RecordEntry, link: Link) -> Markup:
    """The visible marks of a run: not valid, function-only, and what has changed since."""
    only = _marked("function only", entry, link) if entry.summary.function_only else _NO_MARK
    return disturbed(entry, link) + only + _since(entry, link)


def disturbed(entry: RecordEntry, link: Link) -> Markup:
    """The mark of a run that is not valid."""
    status = entry.summary.validity.status
    return _NO_MARK if status == "valid" else _marked(status, entry, link)


def _marked(words: str, entry: RecordEntry, link: Link) -> Markup:
    return Markup(' <a class="mark {}" href="{}#validity">{}</a>').format(
        words.replace(" ", "-"), link(entry.page), words
    )


def _since(entry: RecordEntry, link: Link) -> Markup:
    """The mark of what has changed since a run, linked to what that means and what renews it."""
    names = [one.name for one in entry.marks if one.name != "old"]
    short = [f"{', '.join(names)} changed"] if names else []
    short += ["old"] if len(names) < len(entry.marks) else []
    if not short:
        return _NO_MARK
    return Markup(' <a class="since" href="{}#since">{}</a>').format(
        link("claims.html"), ", ".join(short)
    )


def conditions(entry: RecordEntry, series: AnySeries) -> Conditions:
    """What the figures of a series must be read with."""
    if isinstance(series, SeriesSummary):
        return entry.summary.conditions(series)
    return conditions_of(series, entry.summary.machine)


def notes(entry: RecordEntry, series: AnySeries) -> Sequence[str]:
    """The same in plain text, for what stands next to a figure.

    Counts are the same on any host, and a function-only run has a mark of its own.
    """
    if series.unit == COUNTED or entry.summary.function_only:
        return ()
    found = conditions(entry, series).notes
    # What runs the guests of a service is not known: its own page says so, once.
    return [one for one in found if one != NOT_RECORDED] if entry.summary.endpoint else found


def noted(entry: RecordEntry, series: AnySeries) -> Markup:
    """The notes as they stand after a figure; empty where there are none."""
    found = notes(entry, series)
    return (
        Markup(' <small class="conditions">{}</small>').format(", ".join(found))
        if found
        else _NO_MARK
    )


def between(entry: RecordEntry, series: AnySeries) -> Between | None:
    """How the runs of a series differ in this record's environment; None where only one counts."""
    if entry.environment is None:
        return None
    return entry.environment.between(_kind(entry, series))


def _kind(entry: RecordEntry, series: AnySeries) -> SeriesKind:
    if isinstance(series, SeriesSummary):
        return series.kind
    of = entry.summary.endpoint.identity if entry.summary.endpoint else ""
    return series_kind(series.metric, series.unit, series.better, series.dimensions, of)


def spread(
    entry: RecordEntry, series: AnySeries, statistic: str = "p50", given: Scale | None = None
) -> str:
    """What a statistic's interval does not show, as text: how much it differs from run to run."""
    samples, _ = size(series)
    if not samples or series.unit == COUNTED:
        return ""
    if conditions(entry, series).readings:
        many = "one reading" if samples == 1 else f"{samples} repeated readings"
        return f"{many}, {ONE_RUN}"
    found = between(entry, series)
    if found is None or found.runs == 1:
        return ONE_RUN
    runs = f"{found.runs} runs on {found.days} {'day' if found.days == 1 else 'days'}"
    if found.lives and found.lives > 1:
        runs += f", {found.lives} boots"
    if statistic != "p50":
        assert entry.environment is not None
        values = entry.environment.values(_kind(entry, series), statistic)
        if len(values) < 2:
            return ONE_RUN
        extremes = Estimate(values[-1], min(values), max(values))
        name = {"mean": "means"}.get(statistic, statistic)
        return f"{name} of {runs}: {with_unit(extremes, series.unit, given)}"
    if found.typical is None:
        extremes = Estimate(found.high, found.low, found.high)
        return f"medians of {runs}: {with_unit(extremes, series.unit, given)}"
    return f"between {runs}: {with_unit(found.typical, series.unit, given)}"


def with_unit(estimate: Estimate, unit: str, given: Scale | None = None) -> str:
    """An estimate's interval with its unit."""
    name = (given or scale(estimate.value, unit))[1]
    return f"{show_interval(estimate, unit, given)} {name}".strip()


def figure(
    entry: RecordEntry,
    series: AnySeries,
    statistic: str,
    link: Link,
    *,
    interval: bool = False,
    marked: bool = True,
    like: Figure | None = None,
) -> Markup:
    """A statistic of a series, linked to its row on the run's page, with the run's marks.

    `like` is the published figure that it stands beside, whose unit it has. `marked` is false where
    another figure of the same run stands beside it in its row.
    """
    whole = entry
    if not marked:
        entry = entry.unmarked
    if withheld(entry, series):
        return proved(entry, series, link)
    estimate = get(series, statistic)
    if estimate is None:
        return Markup('<span class="absent">{}</span>{}').format(
            why_absent(series, statistic), mark(entry, link)
        )
    href = f"{link(entry.page)}#{place(entry, series, statistic)}"
    given = unit_beside(like, estimate.value, series.unit)
    shown = data(estimate.value, show(estimate, series.unit, given), href, series.unit)
    bounds = show_interval(estimate, series.unit, given) if interval else ""
    runs = spread(whole, series, statistic, given) if interval else ""
    # Beside a marked figure of the same run, only what several runs say of this one is added.
    runs = "" if runs == ONE_RUN and not marked else runs
    if bounds:
        shown += Markup(' <span class="interval">{}</span>').format(bounds)
    return shown + _runs(runs) + noted(entry, series) + mark(entry, link)


def _runs(text: str) -> Markup:
    return Markup(' <small class="runs">{}</small>').format(text) if text else _NO_MARK


def divided(estimate: Estimate, by: int) -> Estimate:
    """An estimate divided by a count."""
    low, high = estimate.low, estimate.high
    return Estimate(
        estimate.value / by,
        None if low is None else low / by,
        None if high is None else high / by,
    )


def bare(series: AnySeries, statistic: str, *, interval: bool = False) -> Markup:
    """The same without a link, for the run's own page; the statistic must exist."""
    estimate = get(series, statistic)
    assert estimate
    shown = (
        f'<data value="{estimate.value!r}" data-unit="{escape(series.unit)}">'
        f"{escape(show(estimate, series.unit))}</data>"
    )
    bounds = show_interval(estimate, series.unit) if interval else ""
    return Markup(f'{shown} <span class="interval">{escape(bounds)}</span>' if bounds else shown)


_UNKNOWN = Markup('<span class="absent">unknown</span>')


def fact(value: Scalar) -> Scalar | Markup:
    """A fact about a machine or a series, as text."""
    if value is None:
        return _UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value


def per(
    entry: RecordEntry,
    series: AnySeries,
    statistic: str,
    by: int,
    link: Link,
    *,
    like: Figure | None = None,
) -> Markup:
    """A statistic of a series divided by a count; linked to the undivided one."""
    estimate = None if withheld(entry, series) else get(series, statistic)
    if estimate is None or not by:
        return figure(entry, series, statistic, link, like=like)
    href = f"{link(entry.page)}#{place(entry, series, statistic)}"
    each = divided(estimate, by)
    given = unit_beside(like, each.value, series.unit)
    shown = data(each.value, show(each, series.unit, given), href, series.unit)
    # The figures of other runs are divided by counts of their own.
    runs = spread(entry, series, statistic)
    runs = runs if runs.endswith(ONE_RUN) else ""
    return shown + _runs(runs) + noted(entry, series) + mark(entry, link)


def derived(
    entry: RecordEntry,
    series: AnySeries,
    estimate: Estimate,
    unit: str,
    link: Link,
    statistic: str = "p50",
    *,
    like: Figure | None = None,
) -> Markup:
    """A figure computed from several series of a record, linked to the main one; or its mean."""
    href = f"{link(entry.page)}#{place(entry, series, statistic)}"
    given = unit_beside(like, estimate.value, unit)
    shown = data(estimate.value, show(estimate, unit, given), href, unit)
    bounds = show_interval(estimate, unit, given)
    if bounds:
        shown += Markup(' <span class="interval">{}</span>').format(bounds)
    runs = spread(entry, series, statistic, given) if statistic == "mean" else ""
    return shown + _runs(runs) + noted(entry, series) + mark(entry, link)


def count(
    entry: RecordEntry, number: int, place: str, link: Link, *, grouped: bool = False
) -> Markup:
    """A count taken from a record: of samples, of failures."""
    text = thousands(number) if grouped else str(number)
    return data(number, text, f"{link(entry.page)}#{place}", COUNTED)


def took(entry: RecordEntry, link: Link) -> Markup:
    """How long the whole run took, according to its record."""
    begun, ended = (
        datetime.fromisoformat(one) for one in (entry.summary.started, entry.summary.finished)
    )
    seconds = (ended - begun).total_seconds()
    minutes, rest = divmod(round(seconds), 60)
    text = f"{minutes} min {rest} s" if minutes else f"{rest} s"
    return data(seconds, text, f"{link(entry.page)}#repeat", "s")


def clock_figure(entry: RecordEntry, nanoseconds: float, link: Link) -> Markup:
    """A clock's resolution or overhead, according to its record."""
    size, name = scale(nanoseconds * 1e-9, "s")
    text = f"{nanoseconds * 1e-9 / size:.3g} {name}"
    return data(nanoseconds * 1e-9, text, f"{link(entry.page)}#clock", "s")


def quoted(one: Figure, link: Link) -> Markup:
    """A published figure as its source writes it, linked to the list of sources.

    A withdrawn one is struck through, and it and a superseded one carry a mark.
    """
    page = link(published_page(one.topic))
    href = f"{page}#{one.id}"
    if one.value is None:
        shown = Markup('<a href="{}">{}</a>').format(href, one.as_written)
    else:
        upper = "" if one.upper is None else f' data-upper="{one.upper!r}"'
        shown = data(one.value, one.as_written, href, one.unit, f" data-published{upper}")
    if one.partial:
        shown += Markup(", {} partial").format(one.partial)
    if not one.state:
        return shown
    if one.withdrawn:
        shown = Markup("<s>{}</s>").format(shown)
    return Markup('{} <a class="mark {}" href="{}">{}</a>').format(
        shown, one.state, href, one.state
    )


def bytes_text(value: float) -> str:
    """A size that is not a measurement, such as a machine's memory."""
    return show(Estimate(value, value * 0.999, value * 1.001), "bytes")

"""The charts of storms: latency and queue against the offered rate, and the ladder over an API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.claims.published import Figure
from harness.measure.quantity import show
from harness.measure.statistics import Estimate
from harness.site.charts.chart import Chart, ChartRow
from harness.site.charts.rungs import RungsPicture, Wire
from harness.site.charts.scaling import Curve, Knee, Point, ScalingPicture
from harness.site.data import api_ladder, figures, storms
from harness.site.data.addresses import slug
from harness.site.data.api_ladder import ApiRow
from harness.site.data.storms import Subject

_ACROSS = "sandboxes offered a second"


def latency_chart(subject: Subject) -> Chart:
    """Median, p95 and p99 until usable, from the moment that each was due, by offered rate."""
    rows = [
        ChartRow(f"usable, {step.rate:g}/s", *found)
        for step in subject.sweep
        if (found := step.find(storms.USABLE))
    ]
    curves = [
        _curve(f"usable, {name}", subject, storms.USABLE, statistic)
        for name, statistic in (("median", "p50"), ("p95", "p95"), ("p99", "p99"))
    ]
    return _chart(subject, "latency", "Until usable, by offered rate", "s", curves, rows)


def queue_chart(subject: Subject) -> Chart:
    """The length of the queue by offered rate."""
    rows = [
        ChartRow(f"queue, {step.rate:g}/s", *found)
        for step in subject.sweep
        if (found := step.find(storms.QUEUE))
    ]
    curves = [
        _curve(f"queue, {name}", subject, storms.QUEUE, statistic)
        for name, statistic in (("median", "p50"), ("longest", "max"))
    ]
    return _chart(subject, "queue", "Requests waiting, by offered rate", "1", curves, rows)


def _curve(label: str, subject: Subject, metric: str, statistic: str) -> Curve:
    points = []
    for step in subject.sweep:
        found = step.find(metric)
        value = figures.get(found[1], statistic) if found else None
        # The axis is logarithmic: an empty queue lies on its lower edge.
        if value and step.rate:
            points.append(Point(step.rate, value))
    return Curve(label, points, subject.sweep[0].entry.status_note)


def _chart(
    subject: Subject,
    kind: str,
    title: str,
    unit: str,
    curves: Sequence[Curve],
    rows: Sequence[ChartRow],
) -> Chart:
    name = slug(f"storm-{kind}-{subject.rig}-{subject.name}-{subject.aside}")[:90]
    knee = None
    if subject.capacity and subject.capacity[1].samples:
        held = figures.get(subject.capacity[1], "max")
        assert held
        knee = Knee(held.value, f"capacity {show(held, '1/s')}")
    title = f"{title}: {subject.name}"
    picture = ScalingPicture(name, title, unit, _ACROSS, curves, knee=knee)
    return Chart(f"charts/{name}", title, picture, rows)


def ladder_chart(rows: Sequence[ApiRow], published: Mapping[str, Mapping[str, Figure]]) -> Chart:
    """Each rung of a creation over an API, with the pairs that CubeSandbox published."""
    wires, table = [], []
    for row in rows:
        medians = {}
        for rung, series in row.rungs.items():
            median = figures.get(series, "p50")
            if median:
                medians[rung] = median
                table.append(ChartRow(f"{row.label}, {rung}", row.entry, series))
        wires.append(Wire(row.short, medians, row.entry.status_note))
    for name, several in published.items():
        beads = {
            rung: Estimate(one.value, None, None)
            for rung, one in several.items()
            if one.value is not None
        }
        wires.append(Wire(name, beads, published=True))
        table += [ChartRow(f"{name}, {rung}", published=one) for rung, one in several.items()]
    title = "The rungs of a creation over an API"
    picture = RungsPicture("api-rungs", title, api_ladder.RUNGS, wires)
    return Chart("charts/api-ladder", title, picture, table)

"""Charts of one series on its run's page: samples in measurement order, and their distribution."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from harness.measure.quantity import show
from harness.measure.record import Series
from harness.measure.statistics import Estimate
from harness.site import axis, svg

_HEIGHT, _TOP, _BOTTOM = 210, 14, 30
_LEFT, _RIGHT = 0.13, 0.01
_PLOT = _HEIGHT - _TOP - _BOTTOM
Known = Mapping[str, Estimate]
"""The estimates of a series that were worked out before, by name."""


def _across(share: float) -> float:
    return _LEFT + (1 - _LEFT - _RIGHT) * share


@functools.lru_cache(maxsize=64)
def _horizontal(scale: axis.Axis) -> list[Markup]:
    """Grid lines at the ticks of a vertical axis, labelled at the left."""
    parts = []
    for tick in scale.ticks:
        y = f"{_TOP + _PLOT * (1 - scale.place(tick.value)):g}"
        parts.append(svg.tag("line", x1=svg.percent(_LEFT), x2="100%", y1=y, y2=y, class_="major"))
        parts.append(
            svg.tag(
                "text",
                tick.label,
                x=svg.percent(_LEFT),
                dx=-8,
                y=float(y) + 4,
                text_anchor="end",
                class_="tick",
            )
        )
    return parts


def _below(labels: Sequence[tuple[float, str]], grid: bool) -> list[Markup]:
    """Labels under the plot at shares of its width, with grid lines if wanted."""
    parts = []
    for number, (share, text) in enumerate(labels):
        x = svg.percent(_across(share))
        if grid:
            parts.append(svg.tag("line", x1=x, x2=x, y1=_TOP, y2=_TOP + _PLOT, class_="major"))
        place = "end" if number == len(labels) - 1 else "middle"
        at = "100%" if place == "end" else x
        parts.append(svg.tag("text", text, x=at, y=_HEIGHT - 10, text_anchor=place, class_="tick"))
    return parts


def order_chart(id: str, series: Series, most: int, known: Known) -> Markup:
    """Every attempt from left to right; a failed one is a cross at the top.

    Where there are more than `most`, a stroke from the lowest to the highest stands for as many
    neighbours as it takes, so that no outlier is lost.
    """
    if len(series.samples) > most:
        return _envelope(id, series, most, known)
    attempts = len(series.samples) + len(series.failures)
    scale = axis.fitting(series.samples, series.unit)
    failed = {failure.index for failure in series.failures}
    free = [index for index in range(attempts) if index not in failed]
    # A failure's index beyond the attempts would leave more places than samples.
    points = [
        (_across(_share(index, attempts)), _PLOT * (1 - scale.place(value)))
        for index, value in zip(free, series.samples, strict=False)
    ]
    crosses = [
        svg.glyph(_across(_share(min(index, attempts - 1), attempts)), _TOP, svg.CROSS, "failure")
        for index in sorted(failed)[:200]
    ]
    ends = [(0.0, "first"), (1.0, f"attempt {attempts}")]
    median = known.get("p50")
    described = (
        f"{len(series.samples)} samples and {len(failed)} failures; "
        f"median {show(median, series.unit) if median else 'none'}."
    )
    return svg.chart(
        id,
        f"{series.metric}: samples in the order they were measured",
        described,
        _HEIGHT,
        svg.tag("g", *_horizontal(scale), *_below(ends, False), class_="axis", aria_hidden="true"),
        svg.stretched(svg.dots(points), _TOP, _PLOT, "samples"),
        *crosses,
    )


def _envelope(id: str, series: Series, most: int, known: Known) -> Markup:
    samples, n = series.samples, len(series.samples)
    scale = axis.fitting((min(samples), max(samples)), series.unit)
    path = ""
    for bin in range(most):
        several = samples[bin * n // most : (bin + 1) * n // most]
        x = round(_across((bin + 0.5) / most) * svg.GRAIN)
        low, high = (_PLOT * (1 - scale.place(one)) for one in (min(several), max(several)))
        path += f"M{x} {low:.4g}V{min(high, low - 0.5):.4g}"
    ends = [(0.0, "first"), (1.0, f"sample {n:,}".replace(",", "\u202f"))]
    median = known.get("p50")
    assert median
    described = (
        f"{n} samples, {n // most} or so to each stroke, from their lowest to their highest; "
        f"{len(series.failures)} failures; median {show(median, series.unit)}."
    )
    return svg.chart(
        id,
        f"{series.metric}: samples in the order they were measured",
        described,
        _HEIGHT,
        svg.tag("g", *_horizontal(scale), *_below(ends, False), class_="axis", aria_hidden="true"),
        svg.stretched(path, _TOP, _PLOT, "envelope"),
    )


def _share(index: int, attempts: int) -> float:
    # Half a step of air at both ends.
    return (index + 0.5) / max(attempts, 1)


def ecdf_chart(id: str, series: Series, most: int, known: Known) -> Markup:
    """The share of samples that do not exceed a value, in at most so many steps."""
    ordered = sorted(series.samples)
    scale = axis.fitting((ordered[0], ordered[-1]), series.unit)
    path = ""
    last: int | None = None
    count = min(len(ordered), most)
    for number in (step * len(ordered) // count for step in range(1, count + 1)):
        value = ordered[number - 1]
        x = round(_across(scale.place(value)) * svg.GRAIN)
        y = f"{_PLOT * (1 - number / len(ordered)):.4g}"
        if last is None:
            path = f"M{x} {_PLOT:g}V{y}"
        elif x == last:
            # Steps on one pixel become one step.
            path = path[: path.rindex("V")] + f"V{y}"
        else:
            path += f"H{x}V{y}"
        last = x
    levels = axis.Axis(0, 1, False, tuple(axis.Tick(k / 4, f"{25 * k} %") for k in range(5)))
    labels = [(scale.place(tick.value), tick.label) for tick in scale.ticks]
    lines = []
    for name in ("p50", "p95", "p99"):
        estimate = known.get(name)
        if estimate:
            at = svg.percent(_across(scale.place(estimate.value)))
            lines.append(
                svg.tag(
                    "line",
                    x1=at,
                    x2=at,
                    y1=_TOP,
                    y2=_TOP + _PLOT,
                    class_="median" if name == "p50" else "quantile",
                )
            )
    return svg.chart(
        id,
        f"{series.metric}: share of samples up to a value",
        f"Empirical distribution of {len(ordered)} samples.",
        _HEIGHT,
        svg.tag(
            "g", *_horizontal(levels), *_below(labels, True), class_="axis", aria_hidden="true"
        ),
        *lines,
        svg.stretched(path, _TOP, _PLOT, "steps"),
    )

"""Charts of one series on a run's page: samples in measurement order, and their distribution."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from itertools import pairwise

from markupsafe import Markup

from harness.measure.quantity import show, thousands
from harness.measure.record import Series
from harness.measure.statistics import Estimate
from harness.site.charts import axis, svg

_HEIGHT, _TOP, _BOTTOM = 210, 14, 30
_LEFT, _RIGHT = 0.18, 0.01
_PLOT = _HEIGHT - _TOP - _BOTTOM
Known = Mapping[str, Estimate]
"""The precomputed estimates of a series, by name."""


_CROSSES = 200
"""The most failed attempts that a chart draws; the text counts all."""


def _across(share: float) -> float:
    return _LEFT + (1 - _LEFT - _RIGHT) * share


def _step(share: float) -> int:
    return round(_FIRST + _SPAN * share)


_FIRST, _SPAN = _LEFT * svg.GRAIN, (1 - _LEFT - _RIGHT) * svg.GRAIN


@functools.lru_cache(maxsize=64)
def _scale(low: float, high: float, unit: str) -> axis.Axis:
    return axis.fitting((low, high), unit)


@functools.lru_cache(maxsize=64)
def _places(attempts: int) -> Sequence[int]:
    """The horizontal position of each attempt."""
    return [_step(_share(index, attempts)) for index in range(attempts)]


@functools.lru_cache(maxsize=256)
def _beside(scale: axis.Axis) -> tuple[Markup, str]:
    """The labels of the vertical axis, and the path of its grid lines."""
    labels, grid = [], ""
    left, width = round(_LEFT * svg.GRAIN), round((1 - _LEFT) * svg.GRAIN)
    for tick in scale.ticks:
        y = _PLOT * (1 - scale.place(tick.value))
        labels.append(f'<text x="{svg.percent(_LEFT)}" y="{_TOP + y:g}">{tick.label}</text>')
        grid += f"M{left} {svg.down(y)}h{width}"
    return _ticks("end", "-8 4", labels), grid


@functools.lru_cache(maxsize=256)
def _below(labels: Sequence[tuple[float, str]]) -> tuple[Markup, str]:
    """Labels under the plot at shares of its width, and the path of grid lines at them."""
    parts, grid = [], ""
    for number, (share, text) in enumerate(labels):
        last = number == len(labels) - 1
        at = "100%" if last else svg.percent(_across(share))
        end = ' text-anchor="end"' if last else ""
        parts.append(f'<text x="{at}"{end}>{text}</text>')
        grid += f"M{_step(share)} 0v{svg.down(_PLOT)}"
    return _ticks("middle", f"0 {_HEIGHT - 10}", parts), grid


def _ticks(anchor: str, shift: str, labels: Sequence[str]) -> Markup:
    """Axis labels; our own numbers and units, so nothing needs escaping."""
    return Markup(
        f'<g class="tick" text-anchor="{anchor}" transform="translate({shift})" '
        f'aria-hidden="true">{"".join(labels)}</g>'
    )


def order_chart(id: str, series: Series, most: int, known: Known) -> Markup:
    """Every attempt from left to right; a failed one is a cross at the top.

    With more than `most` samples, one stroke from lowest to highest stands for several neighbours,
    so that no outlier is lost.
    """
    samples, failures = series.samples, series.failures
    n, attempts = len(samples), len(samples) + len(failures)
    scale = _scale(min(samples), max(samples), series.unit)
    crosses: list[Markup] = []
    if n > most:
        drawn = ("envelope", _strokes(samples, scale, most))
        words = f", {n // most} or so per stroke, drawn from lowest to highest;"
        end = f"sample {thousands(n)}"
    else:
        failed = {failure.index for failure in failures}
        free: Sequence[int] = (
            [index for index in range(attempts) if index not in failed] if failed else range(n)
        )
        floor, across = svg.down(_PLOT), _places(attempts)
        # A failure's index beyond the attempts would leave more places than samples.
        points = [
            (across[index], round(floor * (1 - share)))
            for index, share in zip(free, scale.places(samples), strict=False)
        ]
        crosses = [
            svg.glyph(
                _across(_share(min(index, attempts - 1), attempts)), _TOP, svg.CROSS, "failure"
            )
            for index in sorted(failed)[:_CROSSES]
        ]
        drawn, words, end = ("samples", svg.dots_at(points)), " and", f"attempt {attempts}"
    median = known.get("p50")
    shown_median = show(median, series.unit) if median else "none"
    labels, grid = _beside(scale)
    ends, _ = _below(((0.0, "first"), (1.0, end)))
    return svg.chart(
        id,
        f"{series.metric}: samples in the order they were measured",
        f"{n} samples{words} {len(failures)} failures; median {shown_median}.",
        _HEIGHT,
        labels,
        ends,
        svg.stretched(_TOP, _PLOT, ("major", grid), drawn),
        *crosses,
    )


def _strokes(samples: Sequence[float], scale: axis.Axis, most: int) -> str:
    n, path = len(samples), ""
    for bin in range(most):
        several = samples[bin * n // most : (bin + 1) * n // most]
        low, high = scale.places((min(several), max(several)))
        y = svg.down(_PLOT * (1 - low))
        path += f"M{_step((bin + 0.5) / most)} {y}V{min(svg.down(_PLOT * (1 - high)), y - 5)}"
    return path


def _share(index: int, attempts: int) -> float:
    # Half a step of margin at both ends.
    return (index + 0.5) / max(attempts, 1)


_LEVELS = axis.Axis(0, 1, False, tuple(axis.Tick(k / 4, f"{25 * k} %") for k in range(5)))


def ecdf_chart(id: str, series: Series, most: int, known: Known) -> Markup:
    """The share of samples up to each value, in at most `most` steps."""
    ordered = sorted(series.samples)
    n = len(ordered)
    scale = _scale(ordered[0], ordered[-1], series.unit)
    ranks: Sequence[int] = range(1, n + 1)
    if n > most:
        ranks = [step * n // most for step in range(1, most + 1)]
        ordered = [ordered[rank - 1] for rank in ranks]
    floor = svg.down(_PLOT)
    # By horizontal position: of several steps on one pixel, the last and highest is drawn.
    steps = {
        _step(share): round(floor * (1 - rank / n))
        for rank, share in zip(ranks, scale.places(ordered), strict=True)
    }
    points = [(next(iter(steps)), floor), *steps.items()]
    path = [f"h{there[0] - here[0]}v{there[1] - here[1]}" for here, there in pairwise(points)]
    start = f"M{points[0][0]} {floor}"
    lines = []
    for name in ("p50", "p95", "p99"):
        estimate = known.get(name)
        if estimate:
            kind = "median" if name == "p50" else "quantile"
            lines.append((kind, f"M{_step(scale.place(estimate.value))} 0v{floor}"))
    labels, grid = _beside(_LEVELS)
    ticks, uprights = _below(tuple((scale.place(one.value), one.label) for one in scale.ticks))
    return svg.chart(
        id,
        f"{series.metric}: share of samples up to a value",
        f"Empirical distribution of {n} samples.",
        _HEIGHT,
        labels,
        ticks,
        svg.stretched(
            _TOP, _PLOT, ("major", grid + uprights), *lines, ("steps", start + "".join(path))
        ),
    )

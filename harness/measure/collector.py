"""Collects a run's samples and failures into the series of its record."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from harness.measure.record import Facts, Failure, FailureKind, Scalar, Series

Unit = Literal["s", "bytes", "1", "bytes/s", "1/s"]
Better = Literal["lower", "higher"]
Loop = Literal["closed", "open"]


@dataclass
class _Growing:
    unit: Unit
    better: Better
    dimensions: Facts
    samples: list[float] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)


class Collector:
    """Samples and failures by metric and dimensions, and what makes the record a failure.

    `dimensions` are added to those of every series. `broken` holds the reasons for which the
    record is written as failed, and `doubts` those for which it is suspect. In a closed `loop` each
    request waits for the one before; in an open one they arrive at a given rate.
    """

    def __init__(self, loop: Loop = "closed", /, **dimensions: Scalar) -> None:
        self._loop = loop
        self._dimensions = dimensions
        self._growing: dict[tuple[str, frozenset[tuple[str, Scalar]]], _Growing] = {}
        self.broken: list[str] = []
        self.doubts: list[str] = []

    def add(
        self,
        metric: str,
        unit: Unit,
        samples: Iterable[float],
        failures: Iterable[tuple[int, str] | tuple[int, str, FailureKind | None]] = (),
        better: Better = "lower",
        /,
        **dimensions: Scalar,
    ) -> None:
        """Append samples in `unit`, and failures as (attempt, counted from 0; reason; kind).

        Creates no series when nothing was attempted.
        """
        taken, failed = list(samples), [Failure(*each) for each in failures]
        if taken or failed:
            series = self._of(metric, unit, better, dimensions)
            series.samples += taken
            series.failures += failed

    def fail(
        self,
        metric: str,
        unit: Unit,
        reason: str,
        better: Better = "lower",
        kind: FailureKind | None = None,
        /,
        **dimensions: Scalar,
    ) -> None:
        """Append the failure of the next attempt, which gave no sample."""
        series = self._of(metric, unit, better, dimensions)
        series.failures.append(Failure(len(series.samples) + len(series.failures), reason, kind))

    def _of(self, metric: str, unit: Unit, better: Better, own: Facts) -> _Growing:
        dimensions = {**self._dimensions, **own}
        key = metric, frozenset(dimensions.items())
        return self._growing.setdefault(key, _Growing(unit, better, dimensions))

    @property
    def series(self) -> list[Series]:
        """Every series, in the order of their first attempts."""
        return [
            Series(
                metric=metric,
                unit=growing.unit,
                better=growing.better,
                dimensions=growing.dimensions,
                loop=self._loop,
                samples=growing.samples,
                failures=growing.failures,
            )
            for (metric, _), growing in self._growing.items()
        ]

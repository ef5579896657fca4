"""Series in the making: samples in the order of measurement, by metric and dimensions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from harness.measure.record import Facts, Failure, Scalar, Series

Unit = Literal["s", "bytes", "1", "bytes/s", "1/s"]


@dataclass
class _Growing:
    unit: Unit
    better: Literal["lower", "higher"]
    dimensions: Facts
    samples: list[float] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    @property
    def attempts(self) -> int:
        return len(self.samples) + len(self.failures)


class Collector:
    """Takes samples and failures; `loop` is the record's word for how requests came."""

    def __init__(self, loop: Literal["closed", "open"] = "closed") -> None:
        self._loop = loop
        self._growing: dict[tuple[str, frozenset[tuple[str, Scalar]]], _Growing] = {}

    def add(
        self,
        metric: str,
        samples: Iterable[float],
        dimensions: Facts,
        unit: Unit = "s",
        better: Literal["lower", "higher"] = "lower",
    ) -> None:
        self._of(metric, unit, better, dimensions).samples.extend(samples)

    def fail(
        self,
        metric: str,
        reason: str,
        dimensions: Facts,
        unit: Unit = "s",
        better: Literal["lower", "higher"] = "lower",
    ) -> None:
        """An attempt that gave no sample."""
        one = self._of(metric, unit, better, dimensions)
        one.failures.append(Failure(one.attempts, reason))

    def _of(
        self,
        metric: str,
        unit: Unit,
        better: Literal["lower", "higher"],
        dimensions: Facts,
    ) -> _Growing:
        key = metric, frozenset(dimensions.items())
        return self._growing.setdefault(key, _Growing(unit, better, dimensions))

    def series(self) -> Sequence[Series]:
        """All of them, in the order of their first samples."""
        return [
            Series(
                metric=metric,
                unit=one.unit,
                better=one.better,
                dimensions=one.dimensions,
                loop=self._loop,
                samples=one.samples,
                failures=one.failures,
            )
            for (metric, _), one in self._growing.items()
        ]

"""Series as they come to be, one after the other, with the dimensions that they share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from harness.measure.record import Failure, Scalar, Series


class Findings:
    """The series of one run in the making, and what makes its record a failure.

    `dimensions` are those that all series share.
    """

    def __init__(self, **dimensions: Scalar) -> None:
        self._dimensions = dimensions
        self.series: list[Series] = []
        self.broken: list[str] = []

    def add(
        self,
        metric: str,
        unit: Literal["s", "bytes", "1", "bytes/s", "1/s"],
        samples: Sequence[float],
        failures: Sequence[tuple[int, str]] = (),
        **dimensions: Scalar,
    ) -> None:
        """One series; none where nothing was attempted."""
        if samples or failures:
            self.series.append(
                Series(
                    metric=metric,
                    unit=unit,
                    better="lower",
                    dimensions=self._dimensions | dimensions,
                    loop="closed",
                    samples=list(samples),
                    failures=[Failure(*one) for one in failures],
                )
            )

"""The picture of a series: two charts in pages, one with two panels in papers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from harness.measure.record import Series
from harness.site.charts.series import ecdf_chart, order_chart
from harness.site.data import figures
from harness.site.data.corpus import RecordEntry

_MOST = 2000
"""At most so many points in a page's drawing."""


@dataclass(frozen=True)
class SeriesPicture:
    """A series with samples, by its index in its record, which is read when it is drawn."""

    title: str
    entry: RecordEntry
    number: int

    @property
    def series(self) -> Series:
        return self.entry.record.series[self.number]

    def svg(self) -> Markup:
        known = figures.known(self.series)
        return order_chart("order", self.series, _MOST, known) + ecdf_chart(
            "ecdf", self.series, _MOST, known
        )


def free_places(series: Series) -> tuple[int, Sequence[int]]:
    """The number of attempts, and the indices of those that gave a sample."""
    failed = {failure.index for failure in series.failures}
    attempts = len(series.samples) + len(failed)
    free = [n for n in range(attempts) if n not in failed]
    return attempts, free[: len(series.samples)]

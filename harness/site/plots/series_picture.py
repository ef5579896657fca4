"""What is drawn of one series. The pages draw it in two charts, a paper in one of two panels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from harness.measure.record import Series
from harness.site.charts.series import ecdf_chart, order_chart
from harness.site.data import figures
from harness.site.data.corpus import RecordEntry

_MOST = 2000
"""Points of the drawing in a page."""


@dataclass(frozen=True)
class SeriesPicture:
    """A series that has samples, by its place in its record, which is read when it is drawn."""

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
    """How many attempts there were, and the number of each that gave a sample."""
    failed = {one.index for one in series.failures}
    attempts = len(series.samples) + len(failed)
    free = [n for n in range(attempts) if n not in failed]
    return attempts, free[: len(series.samples)]

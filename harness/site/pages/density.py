"""The density page: memory of N sandboxes from one checkpoint, by three definitions."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

from harness.measure.quantity import thousands
from harness.measure.statistics import Estimate
from harness.site.charts.chart import Chart, ChartRow
from harness.site.charts.scaling import Curve, Naive, Point, Reference, ScalingPicture
from harness.site.data import density
from harness.site.data.cold_start import FLOOR
from harness.site.data.corpus import Corpus
from harness.site.data.density import MeasuredFleet
from harness.site.data.publishers import ORIGINAL
from harness.site.page import Document, Item, Nav, Page

_NAMES = {
    "private": "private: a full copy each",
    "mapped": "mapped: one checkpoint file",
    "merged": "merged: equal pages",
    "forked": "forked: one VMM's memory",
    "started": "started: one program's memory",
}
_ACROSS = "sandboxes from one checkpoint"


def _curves(
    found: Sequence[MeasuredFleet], value: Callable[[MeasuredFleet], Estimate | None]
) -> Sequence[Curve]:
    curves = []
    sharings = dict.fromkeys(fleet.sharing for fleet in found)
    for of_floor, sharing in itertools.product((False, True), sharings):
        points, notes = [], set[str]()
        for fleet in found:
            estimate = value(fleet)
            if (fleet.is_floor, fleet.sharing) == (of_floor, sharing) and estimate:
                points.append(Point(fleet.reached, estimate))
                notes.add(fleet.entry.summary.validity.status)
        notes.discard("valid")
        name = f"{FLOOR}, {sharing}" if of_floor else _NAMES.get(sharing, sharing)
        if points:
            curves.append(Curve(name, points, ", ".join(sorted(notes))))
    return curves


def _references(corpus: Corpus, per: str | None) -> Sequence[Reference]:
    """The published figures beside host memory, in total or (`per`) for one sandbox."""
    return [
        Reference(one.figure, one.figure.as_written, n, one.figure.publisher != ORIGINAL)
        for one in corpus.beside.of(density.RIG, "host-change", per=per)
        if isinstance(n := one.where["n"], int)
    ]


def _rows(
    corpus: Corpus, found: Sequence[MeasuredFleet], each: bool, references: Sequence[Reference]
) -> Sequence[ChartRow]:
    ours = [
        ChartRow(
            f"{f'{FLOOR}, ' if fleet.is_floor else ''}{fleet.sharing}, {thousands(fleet.n)}",
            fleet.entry,
            fleet.change,
            by=fleet.reached if each else 1,
        )
        for fleet in found
        if fleet.change and fleet.reached
    ]
    theirs = [
        ChartRow(
            f"{one.figure.publisher}: {one.figure.what}{f', {thousands(one.n)}' if one.n else ''}",
            published=one.figure,
        )
        for one in references
    ]
    return [*ours, *theirs]


def charts(corpus: Corpus, found: Sequence[MeasuredFleet]) -> dict[str, Chart]:
    naive = None
    first = next((one for one in found if one.guest_bytes), None)
    if first and first.guest_bytes:
        start = Point(1, Estimate(first.guest_bytes, None, None))
        naive = Naive(start, "N times one guest's memory")
    advertised = corpus.beside.lines.get("density-each")
    of_total = _references(corpus, None)
    of_each = [
        *_references(corpus, "bring-up"),
        *([Reference(advertised, f"CubeSandbox {advertised.marked}")] if advertised else []),
    ]
    total = ScalingPicture(
        "density-total",
        "Host memory used",
        "bytes",
        _ACROSS,
        _curves(found, lambda fleet: fleet.total),
        of_total,
        naive,
    )
    apiece = ScalingPicture(
        "density-each",
        "Host memory used per sandbox",
        "bytes",
        _ACROSS,
        _curves(found, lambda fleet: fleet.each),
        of_each,
    )
    return {
        "total": Chart(
            "charts/density-total",
            "Host memory used, by number of sandboxes",
            total,
            _rows(corpus, found, False, of_total),
        ),
        "each": Chart(
            "charts/density-each",
            "Host memory used per sandbox",
            apiece,
            _rows(corpus, found, True, of_each),
        ),
    }


def _render(corpus: Corpus) -> Iterator[Item]:
    found = density.fleets(corpus)
    published = [one for one in corpus.published if one.topic == "memory" and one.value is not None]
    drawn = charts(corpus, found) if found else None
    for one in (drawn or {}).values():
        yield from one.assets()
    yield Document(
        "density.html",
        "density.html",
        "Density",
        "How many sandboxes from one checkpoint this host can run at once.",
        {
            "charts": drawn,
            "fleets": found,
            "has_floor": any(one.is_floor for one in found),
            "merged": density.largest(found, "merged"),
            "forked": density.largest(found, "forked"),
            "published": published,
            "broken": [one for one in found if one.entry.summary.validity.status == "failed"],
        },
    )


PAGE = Page(_render, Nav("Density", "density.html", 10))

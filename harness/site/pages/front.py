"""The front page: three large figures, the cold-start chart, the ladder, and many at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.claims.published import Figure
from harness.measure.record import Series
from harness.site import coldstart, density
from harness.site.chart_strip import Line, Strip, strip_chart
from harness.site.coldstart import Row
from harness.site.corpus import Corpus, Entry
from harness.site.page import Asset, Document, Nav, Page

_CLAIM = "cubesandbox.readme.cc1"
_ORIGINAL = "Coppice"
_STATISTICS_OF_ORIGINAL = "mean"


@dataclass(frozen=True)
class Hero:
    """One large figure: where it is, which statistic of it, what it is of, and the words under it.

    `task` measures it where it was not.
    """

    title: str
    words: str
    subject: str
    statistic: str
    found: tuple[Entry, Series] | None
    task: str


def _start(rows: Sequence[Row], tier: str, title: str, words: str) -> Hero:
    row = next((one for one in rows if one.tier == tier), None)
    return Hero(
        title,
        words,
        f"{row.substrate} {tier}" if row else tier,
        "p50",
        row.series(coldstart.HEADLINE, 1) if row else None,
        (row.task if row else None) or f"mise run bench:qemu-{tier}",
    )


def _many(corpus: Corpus) -> Hero:
    """The largest fleet that came up whole; among equals the one that takes least."""
    fleets = [
        one for one in density.fleets(corpus) if one.change and one.total and one.reached == one.n
    ]
    best = min(fleets, key=lambda one: (-one.n, one.total.value if one.total else 0), default=None)
    found = (best.entry, best.change) if best and best.change else None
    return Hero(
        f"{best.n:,} at once, alive" if best else "many at once, alive",
        "memory that the host has no longer available when so many microVMs from one checkpoint "
        "have answered and are at rest",
        f"{best.substrate}, {best.sharing}" if best else "density",
        "p50",
        found,
        "mise run bench:density",
    )


def _heroes(corpus: Corpus, rows: Sequence[Row]) -> Sequence[Hero]:
    return [
        _start(
            rows,
            "durable-prewarm-pool",
            "kept in memory, median",
            "from the request to the first reply of a microVM that was restored from its "
            "checkpoint and stopped",
        ),
        _start(
            rows,
            "durable-pool",
            "restored from disk, median",
            "the same, when the guest's state is on disk alone until it is asked for",
        ),
        _many(corpus),
    ]


def _original(corpus: Corpus, tier: str) -> Sequence[tuple[str, Figure]]:
    """What the original Coppice published for a tier, one at a time."""
    return [
        (_ORIGINAL, one)
        for one in corpus.published
        if one.publisher == _ORIGINAL
        and one.dimensions.get("tier") == tier
        and one.dimensions.get("concurrency") == 1
        and one.statistic == _STATISTICS_OF_ORIGINAL
    ]


def _strips(corpus: Corpus, rows: Sequence[Row]) -> Sequence[Strip]:
    strips = []
    drawn: set[str] = set()
    for row in rows:
        noop = row.substrate == coldstart.NOOP
        found = row.series(coldstart.HEADLINE, 1)
        others = [] if noop or row.tier in drawn else _original(corpus, row.tier)
        drawn.add(row.tier)
        label = "noop: the harness alone" if noop else f"{row.substrate} {row.tier}"
        strips.append(
            Strip(
                label,
                found[1] if found else None,
                _note(found),
                warn=found is not None and found[0].record.validity.status != "valid",
                muted=noop,
                published=others,
            )
        )
    return strips


def _note(found: tuple[Entry, Series] | None) -> str:
    """What the reader of a row must know beside its median."""
    if found is None:
        return "not measured on this host"
    entry, series = found
    status = entry.record.validity.status
    notes: list[str] = [status] if status != "valid" else []
    if entry.record.profile != "full":
        notes.append(f"{entry.record.profile} profile")
    if series.failures:
        notes.append(f"{len(series.failures)} failed")
    if not series.samples:
        notes.append("no sample")
    return ", ".join(notes)


def _accelerators(rows: Sequence[Row]) -> Sequence[str]:
    """What ran the guests of the rows; `noop` has none."""
    found = {
        entry.record.machine.accelerator or "no accelerator"
        for row in rows
        if row.substrate != coldstart.NOOP
        for entry in row.entries.values()
    }
    return sorted(found)


def _render(corpus: Corpus) -> Iterator[Document | Asset]:
    rows = coldstart.rows(corpus)
    claim = corpus.figure(_CLAIM)
    line = None
    if claim:
        line = Line(claim, f"CubeSandbox: {claim.as_written}", "advertised; other clock")
    chart = strip_chart(
        "cold-start", "Cold start to the first reply, one at a time", _strips(corpus, rows), line
    )
    machine = corpus.entries[-1].record.machine if corpus.entries else None
    others = sorted({one.record.machine.id for one in corpus.entries} - {corpus.machine})
    used = [one.tier for one in rows if one.substrate != coldstart.NOOP]
    yield Document(
        "index.html",
        "front.html",
        "Coppice",
        "What people claim about sandboxes, measured on this machine, with every sample.",
        {
            "rows": rows,
            "heroes": _heroes(corpus, rows),
            "chart": chart,
            "claim": claim,
            "original": {tier: [one for _, one in _original(corpus, tier)] for tier in used},
            "machine": machine,
            "others": others,
            "accelerators": _accelerators(rows),
            "rungs": coldstart.RUNGS,
            "headline": coldstart.HEADLINE,
            "concurrencies": coldstart.CONCURRENCIES,
            "noop": coldstart.NOOP,
        },
    )


PAGE = Page(_render, Nav("Overview", "index.html", 0))

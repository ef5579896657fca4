"""The front page: headline figures, what was measured, the comparison."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.measure.quantity import thousands
from harness.measure.record import Series
from harness.site.charts import cold_start_charts
from harness.site.data import (
    cold_start,
    comparison_table,
    density,
    essays,
    evidence,
    exhibits,
    exports,
    linked_data,
    network,
)
from harness.site.data.cold_start import ColdStartRow
from harness.site.data.corpus import Corpus, RecordEntry
from harness.site.data.density import MeasuredFleet
from harness.site.page import Document, Item, Nav, Page

_NETWORK = (
    "coppice-network-rtt",
    "coppice-network-rtt-p99",
    "coppice-network-throughput",
    "coppice-policy-update",
    "coppice-policy-enforcement",
)
_PUBLISHED_FLEETS = (8, 50, 200, 400, 1000)


@dataclass(frozen=True)
class Hero:
    """One large figure: its subject and text, and the task that measures it if that was not done.

    `counted` shows the number of samples instead of a statistic.
    """

    title: str
    words: str
    subject: str
    found: tuple[RecordEntry, Series] | None
    task: str
    counted: bool = False


def _best(corpus: Corpus) -> MeasuredFleet | None:
    """The largest fleet that came up completely; among equals the one that uses least memory."""
    fleets = [
        one for one in density.fleets(corpus) if one.change and one.total and one.reached == one.n
    ]
    return min(fleets, key=lambda one: (-one.n, one.total.value if one.total else 0), default=None)


def _heroes(corpus: Corpus, rows: Sequence[ColdStartRow]) -> Sequence[Hero]:
    best = _best(corpus)
    tier = "durable-prewarm-pool"
    row = next((one for one in rows if one.tier == tier), None)
    task = "mise run bench:density"
    of = f"{best.substrate}, {best.sharing}" if best else "density"
    return [
        Hero(
            "microVMs running at once",
            "all from one checkpoint; each answered a nonce with its own identity and random state",
            of,
            best.find("reply") if best else None,
            task,
            counted=True,
        ),
        Hero(
            f"of host memory for all {thousands(best.n)}" if best else "of host memory for all",
            "used once all are idle",
            of,
            (best.entry, best.change) if best and best.change else None,
            task,
        ),
        Hero(
            "to the first reply, median",
            "from the request until a microVM, restored from disk beforehand and frozen in memory, "
            "has computed an answer",
            f"{row.substrate} {tier}" if row else tier,
            row.series(cold_start.HEADLINE, 1) if row else None,
            (row.task if row else None) or f"mise run bench:qemu-{tier}",
        ),
    ]


def _accelerators(rows: Sequence[ColdStartRow]) -> Sequence[str]:
    """The accelerators that ran the guests; `noop` has none."""
    found = {
        entry.summary.machine.accelerator or "no accelerator"
        for row in rows
        if row.substrate != cold_start.NOOP
        for entry in row.entries.values()
    }
    return sorted(found)


def _fleets(corpus: Corpus) -> Sequence[MeasuredFleet]:
    """Fleets without a network, sorted by size."""
    found = [one for one in density.fleets(corpus) if one.change and "networked" not in one.sharing]
    return sorted(found, key=lambda one: (one.n, one.sharing))


def _render(corpus: Corpus) -> Iterator[Item]:
    rows = cold_start.rows(corpus)
    chart = cold_start_charts.tiers_chart(corpus, rows)
    yield from chart.assets()
    decided = {
        claim.id: (claim, evidence.deciding(evidence.judged(corpus, claim, corpus.machine)))
        for claim in corpus.claims
    }
    machine = corpus.machines[corpus.machine][-1].summary.machine if corpus.machine else None
    yield Document(
        "index.html",
        "front.html",
        "Coppice",
        "What people claim about sandboxes, measured on this machine, with every sample.",
        {
            "linked_data": linked_data.within(exports.dataset(corpus)),
            "rows": rows,
            "heroes": _heroes(corpus, rows),
            "chart": chart,
            "exhibit": exhibits.clock_decides(corpus),
            "clock_drawing": cold_start_charts.clock_picture().svg(),
            "claim": corpus.figure(cold_start_charts.CLAIM),
            "machine": machine,
            "others": [
                (id, several[-1].summary.machine)
                for id, several in corpus.machines.items()
                if id != corpus.machine
            ][:12],
            "problems": len(corpus.problems),
            "accelerators": _accelerators(rows),
            "fleets": _fleets(corpus),
            "published_fleets": [
                (n, corpus.figure(f"coppice.density.{n}.total"),
                 corpus.figure(f"coppice.density.{n}.per-guest"))
                for n in _PUBLISHED_FLEETS
                if corpus.figure(f"coppice.density.{n}.total")
            ],
            "network": [decided[id] for id in _NETWORK if id in decided],
            "network_costs": network.newest(corpus, "net-rtt"),
            "tally": evidence.tally([one for _, one in decided.values()]),
            "columns": comparison_table.COLUMNS,
            "comparison": comparison_table.rows(corpus),
            "essays": [one for one in essays.found() if one.kind == "essay"],
            "appendices": [one for one in essays.found() if one.kind == "appendix"],
        },
    )  # fmt: skip


PAGE = Page(_render, Nav("Overview", "index.html", 0))

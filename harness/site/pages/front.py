"""The front page: the original Coppice's headlines with verdicts, what was measured, the
comparison."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.site.charts import cold_start_charts
from harness.site.data import (
    cold_start,
    comparison_table,
    essays,
    exhibits,
    exports,
    headlines,
    linked_data,
    machines,
)
from harness.site.data.cold_start import ColdStartRow
from harness.site.data.corpus import Corpus
from harness.site.page import Document, Item, Nav, Page


def _accelerators(rows: Sequence[ColdStartRow]) -> Sequence[str]:
    """How the guests of the chart ran; `noop` has none."""
    found = {
        machines.accelerator(entry.summary.machine.accelerator) or "without an accelerator"
        for row in rows
        if not row.is_control
        for entry in row.entries.values()
    }
    return sorted(found)


def _render(corpus: Corpus) -> Iterator[Item]:
    rows = cold_start.rows(corpus)
    chart = cold_start_charts.tiers_chart(corpus, rows)
    yield from chart.assets()
    yield Document(
        "index.html",
        "front.html",
        "Coppice",
        "What people claim about sandboxes, measured on this machine, with every sample.",
        {
            "linked_data": linked_data.within(exports.dataset(corpus)),
            "rows": rows,
            "headlines": headlines.rows(corpus, headlines.HEADLINES),
            "tiers": headlines.rows(corpus, headlines.TIERS),
            "fleets": headlines.rows(corpus, headlines.FLEETS),
            "network": headlines.rows(corpus, headlines.NETWORK),
            "tally": headlines.tally(corpus),
            "chart": chart,
            "exhibit": exhibits.clock_decides(corpus),
            "clock_drawing": cold_start_charts.clock_picture().svg(),
            "claim": corpus.beside.lines.get(cold_start_charts.LINE),
            "machine": corpus.machines[corpus.machine][-1].summary.machine
            if corpus.machine
            else None,
            "others": [
                several[-1].summary.machine
                for id, several in corpus.machines.items()
                if id != corpus.machine
            ][:12],
            "problems": len(corpus.problems),
            "accelerators": _accelerators(rows),
            "columns": comparison_table.COLUMNS,
            "comparison": comparison_table.rows(corpus),
            "essays": [one for one in essays.found() if one.kind == "essay"],
            "appendices": [one for one in essays.found() if one.kind == "appendix"],
        },
    )


PAGE = Page(_render, Nav("Overview", "index.html", 0))

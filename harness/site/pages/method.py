"""The method page: terms, clocks, rungs, tiers, statistics, and what is not measured."""

from __future__ import annotations

from collections.abc import Iterator

from harness.claims import decision
from harness.measure import statistics
from harness.site.charts.ladder import LadderPicture, Rung
from harness.site.data import cold_start, density, exhibits
from harness.site.data.corpus import Corpus
from harness.site.data.record_summary import RANKED
from harness.site.page import Document, Item, Nav, Page

_RUNGS = (
    Rung("object", "the VMM or jail exists", "the host creates it or takes it from a pool"),
    Rung("resumed", "its virtual CPU may run", "state is loaded, or the process resumes"),
    Rung("first-reply", "a nonce is answered", "the guest computes on a random nonce"),
    Rung("first-exec", "a command's output is returned", "the guest starts a process"),
    Rung("first-touch", "a working set is written", "the guest writes memory, page by page"),
)
_EXAMPLES = (10, 30, 100, 400)
_PERCENTILES = (50, 90, 95, 99)


def picture() -> LadderPicture:
    """One cold start from rung to rung."""
    return LadderPicture("ladder", "a caller asks for a sandbox", _RUNGS)


def _render(corpus: Corpus) -> Iterator[Item]:
    runs = corpus.of_rig(cold_start.RIG, corpus.machine)
    fleets = density.fleets(corpus)
    holds = [one for sharing in density.SHARINGS if (one := density.largest(fleets, sharing))]
    shown = {n: [p for p in _PERCENTILES if n >= statistics.smallest_n(p)] for n in _EXAMPLES}
    yield Document(
        "method.html",
        "method.html",
        "Method",
        "Terms, clocks, tiers and statistics: what a figure on this site means.",
        {
            "drawing": picture().svg(),
            "exhibit": exhibits.clock_decides(corpus),
            "holds": holds,
            "woken_fleets": [one for one in holds if one.wakes][:1],
            "parts": [one.dimensions["part"] for one in holds[0].parts] if holds else [],
            "newest": runs[-1] if runs else None,
            "percentiles": _PERCENTILES,
            "shown": shown,
            "tiers": cold_start.TIERS,
            "rule": decision.RULE,
            "ranked": RANKED,
        },
    )


PAGE = Page(_render, Nav("Method", "method.html", 60, foot=True))

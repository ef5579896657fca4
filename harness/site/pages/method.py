"""The method page: terms, clocks, rungs, tiers, statistics, and what is not measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.claims import decision
from harness.measure import statistics
from harness.site.charts.ladder import LadderPicture, Rung
from harness.site.data import cold_start, density, evidence, exhibits
from harness.site.data.corpus import Corpus
from harness.site.data.density import MeasuredFleet
from harness.site.page import Document, Item, Nav, Page

_RUNGS = (
    Rung("object", "the VMM or jail exists", "the host creates it or takes it from a pool"),
    Rung("resumed", "its virtual CPU may run", "state is loaded, or the process resumes"),
    Rung("first-reply", "a nonce is answered", "the guest computes on a random nonce"),
    Rung("first-exec", "a command's output is returned", "the guest starts a process"),
    Rung("first-touch", "a working set is written", "the guest writes memory, page by page"),
)
_PIECES = (
    ("Proportional set size", "footprint"),
    ("Private and dirty: no other process shares it", "private"),
    ("Kernel memory that its control group is charged for", "kernel-memory"),
)
"""The tables of a VMM's memory by kind, and the metric of each."""
_KINDS = {
    "guest memory": "pages of the guest; of a mapped file, those that it has written",
    "translated code": "what an emulator generates from the guest’s code; none under KVM",
    "heap": "what the VMM’s main thread has allocated: devices, their state, the memory map",
    "heaps of threads": "what its other threads have allocated, an arena of the allocator for each",
    "stacks": "the stacks of its threads, as far as they were used",
    "program and libraries": "relocated tables and data, which every process copies when it starts",
    "other anonymous memory": "buffers of devices, and what belongs to no other kind",
    "page tables": "of the VMM; those that KVM keeps for the guest are kernel memory",
    "kernel stacks": "one for each thread of the VMM",
    "slab": "objects of the kernel: the VM, its vCPU, descriptors, sockets, mappings",
    "page tables of KVM": "shadow or nested tables, by which the guest’s memory is found",
    "vmalloc": "larger objects of the kernel",
    "per CPU": "objects that the kernel keeps once for each processor",
    "sockets": "buffers of the VMM’s channels",
    "all": "the whole; the kinds above it are parts of it",
}
"""What each kind of memory is."""
_EXAMPLES = (10, 30, 100, 400)
_PERCENTILES = (50, 90, 95, 99)


def picture() -> LadderPicture:
    """One cold start from rung to rung."""
    return LadderPicture("ladder", "a caller asks for a sandbox", _RUNGS)


def _pieces(
    holds: Sequence[MeasuredFleet], metric: str
) -> tuple[str, Sequence[MeasuredFleet], Sequence[str]]:
    """The metric, the fleets that have it, and the kinds of memory that it distinguishes."""
    having = [one for one in holds if one.parts(metric)]
    return metric, having, list(dict.fromkeys(part for one in having for part in one.parts(metric)))


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
            "pieces": [(title, *_pieces(holds, metric)) for title, metric in _PIECES],
            "kinds": _KINDS,
            "newest": runs[-1] if runs else None,
            "percentiles": _PERCENTILES,
            "shown": shown,
            "tiers": cold_start.TIERS,
            "rule": decision.RULE,
            "ranked": evidence.RANKED,
        },
    )


PAGE = Page(_render, Nav("Method", "method.html", 60, foot=True))

"""The comparison page: every substrate in one interleaved run, and published figures."""

from __future__ import annotations

from collections.abc import Iterator

from harness.site.data import compare
from harness.site.data.corpus import Corpus
from harness.site.page import Document, Item, Nav, Page

# Figures that cannot be measured here: the kind of sandbox, and its published figures by column.
_QUOTED = (
    ("CubeSandbox", ("coppice.cube-cold-start", "cubesandbox.june.cc10-p95", "coppice.cube-memory",
                     "coppice.cube-density", "cubesandbox.e2b-methods-partial")),
    ("FreeBSD jail, ZFS clone", ("coppice.jail-zfs-clone.cc1-table",
                                 "coppice.jail-zfs-clone.cc10-p95", "coppice.memory.jail",
                                 "coppice.density.jails", "")),
    ("FreeBSD bhyve, durable-prewarm", ("coppice.bhyve-durable-prewarm-pool.cc1-p50",
                                        "coppice.bhyve-durable-prewarm-pool.cc10-p95",
                                        "coppice.memory.bhyve", "coppice.density.host-32g",
                                        "coppice.e2b.calls")),
    ("Docker", ("coppice.docker", "", "", "", "")),
)  # fmt: skip


def _render(corpus: Corpus) -> Iterator[Item]:
    quoted = [(who, [corpus.figure(id) if id else None for id in ids]) for who, ids in _QUOTED]
    yield Document(
        "compare.html",
        "compare.html",
        "Comparison",
        "Containers, microVMs, a traditional VM and a bare process, measured in one run.",
        {
            "kinds": compare.compared(corpus),
            "absent": compare.not_measured(corpus),
            "beside": compare.paired_runs(corpus),
            "others": quoted,
        },
    )


PAGE = Page(_render, Nav("Comparison", "compare.html", 15))

"""The comparison page: every substrate in one interleaved run, and published figures."""

from __future__ import annotations

from collections.abc import Iterator

from harness.claims.published import clocks
from harness.site.data import compare
from harness.site.data.corpus import Corpus
from harness.site.page import Document, Item, Nav, Page

_KINDS = {
    "cubesandbox": "CubeSandbox",
    "jail": "FreeBSD jail, ZFS clone",
    "bhyve": "FreeBSD bhyve, durable-prewarm",
    "docker": "Docker",
    "firecracker": "Firecracker",
    "cloud-hypervisor": "Cloud Hypervisor",
}
_COLUMNS = ("start", "ten", "memory", "fleet", "sdk")


def _render(corpus: Corpus) -> Iterator[Item]:
    quoted = [
        (who, [corpus.beside.kind(row, kind) for row in _COLUMNS]) for kind, who in _KINDS.items()
    ]
    kinds = compare.compared(corpus)
    yield Document(
        "compare.html",
        "compare.html",
        "Comparison",
        "Containers, microVMs, a traditional VM and a bare process, measured in one run.",
        {
            "kinds": kinds,
            "has_floor": any(one.ratio_to_floor("first-reply") for one in kinds),
            "absent": compare.not_measured(corpus),
            "beside": compare.paired_runs(corpus),
            "others": quoted,
            "clocks": {id: one.title for id, one in clocks().items()},
        },
    )


PAGE = Page(_render, Nav("Comparison", "compare.html", 15))

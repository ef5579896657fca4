"""The E2B page: which methods work with which SDK, and how long the first ones take."""

from __future__ import annotations

from collections.abc import Iterator

from harness.site.data import e2b
from harness.site.data.corpus import Corpus
from harness.site.page import Asset, Document, Nav, Page

_METRICS = {
    "create-headers": "create, until the response headers",
    "first-command": "create and first command",
    "first-command-alone": "first command alone",
    "first-run-code": "create and first code cell",
    "first-run-code-alone": "first code cell alone",
}
_PROGRAMS = {
    "first-program": "create and first {}",
    "first-program-alone": "first {} alone",
}
"""Of programs that no rehearsal has run."""


def _render(corpus: Corpus) -> Iterator[Document | Asset]:
    latency = e2b.latency(corpus)
    yield Document(
        "e2b.html",
        "e2b.html",
        "E2B",
        "Which methods of E2B's SDK work, in which version, unmodified, and how fast.",
        {
            "matrices": e2b.matrices(corpus),
            "kinds": e2b.KINDS,
            "published_matrices": corpus.matrices,
            "latency": latency,
            "metrics": _METRICS,
            "programs": latency.values("program") if latency else (),
            "program_metrics": _PROGRAMS,
            "substrates": latency.values("substrate") if latency else (),
            "sdks": latency.values("sdk") if latency else (),
            "concurrencies": latency.values("concurrency") if latency else (),
        },
    )


PAGE = Page(_render, Nav("E2B", "e2b.html", 14))

"""One page per service under test: what is known of it, its figures, the verdicts, its runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.claims.claims import Claim
from harness.site.data import evidence, services
from harness.site.data.corpus import Corpus
from harness.site.data.evidence import Judged
from harness.site.data.newest import of_endpoint
from harness.site.data.run_list import rows_of
from harness.site.data.services import Service
from harness.site.page import Document, Item, Nav, Page

_RUNS, _SERIES = 100, 150
"""The most runs on a page, and the most series; the index has every run."""


def _judged(corpus: Corpus, service: Service) -> Sequence[tuple[Claim, Judged]]:
    """The claims that a record of this service decides, on the machine it was measured from."""
    return [
        (claim, one)
        for client in service.clients
        for claim in corpus.claims
        if (
            one := evidence.deciding(
                evidence.judged(corpus, claim, client.summary.machine.id, service.identity)
            )
        )
        and one.found
    ]


def _render(corpus: Corpus) -> Iterator[Item]:
    several = list(services.found(corpus))
    for one in several:
        numbers = of_endpoint(corpus, one.identity)
        total = sum(map(len, numbers.values()))
        room = min(1.0, _SERIES / total) if total else 1.0
        yield Document(
            services.page(one.facts),
            "service.html",
            services.title(one.facts),
            f"What was measured of the service {one.facts.name}, and what is known of it.",
            {
                "service": one,
                "facts": one.facts,
                "clients": one.clients,
                "round_trips": [
                    (entry, found) for entry in one.clients for found in services.round_trips(entry)
                ],
                "claims": _judged(corpus, one),
                "numbers": {
                    rig: (rows[: max(8, int(len(rows) * room))], len(rows))
                    for rig, rows in numbers.items()
                },
                "rows": rows_of(one.entries[: -_RUNS - 1 : -1], corpus.superseded),
            },
        )
    yield Document(
        "services.html",
        "services.html",
        "Services",
        "Services under test, known only by their address and API.",
        {"services": several},
    )


PAGE = Page(_render, Nav("Services", "services.html", 52, foot=True))

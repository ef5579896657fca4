"""The list of runs: the newest of every machine and service, and files that could not be read.

The page of a single run is made in harness/site/builder/run_page.py, when its record is read.
"""

from __future__ import annotations

from collections.abc import Iterator

from harness.site.data import kvm_figures, services
from harness.site.data.corpus import Corpus
from harness.site.data.run_list import rows_of
from harness.site.page import Document, Item, Nav, Page

_NEWEST = 60
_PROBLEMS = 200
_SERVICES, _OF_SERVICE = 10, 5


def _render(corpus: Corpus) -> Iterator[Item]:
    many = max(5, _NEWEST * 3 // max(len(corpus.machines), 1))
    shown = min(_NEWEST, many)
    own = {
        id: [one for one in entries if not one.summary.endpoint]
        for id, entries in corpus.machines.items()
    }
    yield Document(
        "runs.html",
        "runs.html",
        "Runs",
        "Every run record, by machine, newest first.",
        {
            "machines": {
                id: (
                    entries[-1].summary.machine,
                    rows_of(own[id][: -shown - 1 : -1], corpus.superseded),
                    len(own[id]),
                )
                for id, entries in corpus.machines.items()
            },
            "services": [
                (one, rows_of(one.entries[: -_OF_SERVICE - 1 : -1], corpus.superseded))
                for one in list(services.found(corpus))[:_SERVICES]
            ],
            "function_only": {
                id: kvm_figures.function_only(entries) for id, entries in corpus.machines.items()
            },
            "problems": corpus.problems[:_PROBLEMS],
            "more_problems": max(0, len(corpus.problems) - _PROBLEMS),
        },
    )


PAGE = Page(_render, Nav("Runs", "runs.html", 50))

"""The list of runs: of every machine the newest, and what could not be read.

The page of a run itself is made where its record is read: harness/site/builder/run_page.py.
"""

from __future__ import annotations

from collections.abc import Iterator

from harness.site.builder.page import Document, Item, Nav, Page
from harness.site.builder.run_page import rows_of
from harness.site.data.corpus import Corpus

_NEWEST = 60
_PROBLEMS = 200


def _render(corpus: Corpus) -> Iterator[Item]:
    many = max(5, _NEWEST * 3 // max(len(corpus.machines), 1))
    shown = min(_NEWEST, many)
    yield Document(
        "runs.html",
        "runs.html",
        "Runs",
        "Every run record, by machine, newest first.",
        {
            "machines": {
                id: (entries[-1].brief.machine, rows_of(entries[: -shown - 1 : -1]), len(entries))
                for id, entries in corpus.machines.items()
            },
            "function_only": {
                id: entries[-1].brief.function_only for id, entries in corpus.machines.items()
            },
            "problems": corpus.problems[:_PROBLEMS],
            "more_problems": max(0, len(corpus.problems) - _PROBLEMS),
        },
    )


PAGE = Page(_render, Nav("Runs", "runs.html", 50))

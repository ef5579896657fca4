"""All numbers: the newest figure of every series of one machine, by rig.

They are on one page; a rig with too many series has additional pages.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.site.data import services
from harness.site.data.addresses import slug
from harness.site.data.corpus import Corpus, RecordEntry
from harness.site.data.newest import newest
from harness.site.data.record_summary import SeriesSummary
from harness.site.page import Document, Item, Nav, Page

_MOST = 200
"""The most series on the page, which must load fast on a phone."""
_PROVED, _MACHINES = 60, 4
"""The most function-only series per machine, and machines."""


def _proved(
    corpus: Corpus,
) -> Sequence[tuple[str, Sequence[tuple[str, RecordEntry, SeriesSummary]], int]]:
    """For each other function-only machine: its newest series with their rigs, and their total
    number."""
    made: list[tuple[str, Sequence[tuple[str, RecordEntry, SeriesSummary]], int]] = []
    for id in dict.fromkeys(machine for _, machine in corpus.function_only_records):
        if id == corpus.machine:
            continue
        rows = [
            (rig, *one)
            for rig, several in newest(corpus, id).items()
            for one in several
            if one[0].summary.proves(one[1])
        ]
        made.append((id, rows[:_PROVED], len(rows)))
    return made[:_MACHINES]


def _render(corpus: Corpus) -> Iterator[Item]:
    found = newest(corpus, corpus.machine)
    total = sum(map(len, found.values()))
    # If there are too many, every rig shows proportionally fewer.
    share = min(1.0, _MOST / total) if total else 1.0
    shown = {rig: several[: max(8, int(len(several) * share))] for rig, several in found.items()}
    machine = corpus.machines[corpus.machine][-1].summary.machine if corpus.machine else None
    whole: dict[str, str] = {}
    for rig, several in found.items():
        if len(several) > len(shown[rig]):
            pages = [
                f"numbers/{slug(rig)}{f'.{n // _MOST + 1}' if n else ''}.html"
                for n in range(0, len(several), _MOST)
            ]
            whole[rig] = pages[0]
            for number, path in enumerate(pages):
                rows = several[number * _MOST : (number + 1) * _MOST]
                yield Document(
                    path,
                    "numbers_rig.html",
                    f"All numbers of {rig}",
                    f"The newest figure of every series of the rig {rig}.",
                    {"rig": rig, "rows": rows, "machine": machine, "pages": pages},
                )
    yield Document(
        "numbers.html",
        "numbers.html",
        "All numbers",
        "The newest figure of every series, rig by rig.",
        {
            "rigs": {rig: (shown[rig], len(several)) for rig, several in found.items()},
            "whole": whole,
            "machine": machine,
            "services": list(services.found(corpus)),
            "proved": _proved(corpus),
            "machine_of": lambda id: corpus.machines[id][-1].summary.machine,
            "others": [
                (id, entries[-1].summary.machine)
                for id, entries in corpus.machines.items()
                if id != corpus.machine
            ][:30],
        },
    )


PAGE = Page(_render, Nav("Numbers", "numbers.html", 40))

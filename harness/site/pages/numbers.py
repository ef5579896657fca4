"""All numbers: the newest figure of every series of one machine, rig by rig.

They stand on one page; a rig with more series than that has room for has a list of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.measure.record import Scalar
from harness.site.builder.page import Document, Item, Nav, Page
from harness.site.data.corpus import Corpus, Entry
from harness.site.data.record_summary import Line, slug
from harness.site.pages.history import DETAILS

_MOST = 300
"""Series on the page: it must load at once on a telephone."""
_PROVED, _MACHINES = 60, 4
"""Series and machines that prove function only."""

Key = tuple[str, tuple[str, tuple[tuple[str, Scalar], ...]]]


def newest(corpus: Corpus, machine: str | None) -> dict[str, list[tuple[Entry, Line]]]:
    """By rig, of each series the newest record of the full profile, else the newest of any; one
    that tells no figures only where there is no other."""
    chosen: dict[Key, tuple[Entry, Line]] = {}
    for entry in corpus.machines.get(machine or "", ()):
        for line in entry.brief.lines:
            if line.metric in DETAILS:
                continue
            key = (entry.brief.rig.id, line.kind.key)
            before = chosen.get(key)
            if before and _rank(before[0]) > _rank(entry):
                continue
            chosen[key] = (entry, line)
    by_rig: dict[str, list[tuple[Entry, Line]]] = {}
    for (rig, *_), found in chosen.items():
        by_rig.setdefault(rig, []).append(found)
    return dict(sorted(by_rig.items()))


def _rank(entry: Entry) -> tuple[bool, bool]:
    return not entry.brief.function_only, entry.brief.profile == "full"


def _proved(corpus: Corpus) -> Sequence[tuple[str, Sequence[tuple[str, Entry, Line]], int]]:
    """Of each other machine that tells no figures, its newest series with their rigs, and how many
    there are in all."""
    made: list[tuple[str, Sequence[tuple[str, Entry, Line]], int]] = []
    for id in dict.fromkeys(machine for _, machine in corpus.proving):
        if id == corpus.machine:
            continue
        rows = [
            (rig, *one)
            for rig, several in newest(corpus, id).items()
            for one in several
            if one[0].brief.function_only
        ]
        made.append((id, rows[:_PROVED], len(rows)))
    return made[:_MACHINES]


def _render(corpus: Corpus) -> Iterator[Item]:
    found = newest(corpus, corpus.machine)
    total = sum(map(len, found.values()))
    # Where all are too many, every rig gives way in proportion.
    share = min(1.0, _MOST / total) if total else 1.0
    shown = {rig: several[: max(8, int(len(several) * share))] for rig, several in found.items()}
    machine = corpus.machines[corpus.machine][-1].brief.machine if corpus.machine else None
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
            "proved": _proved(corpus),
            "machine_of": lambda id: corpus.machines[id][-1].brief.machine,
            "others": [
                (id, entries[-1].brief.machine)
                for id, entries in corpus.machines.items()
                if id != corpus.machine
            ][:30],
        },
    )


PAGE = Page(_render, Nav("Numbers", "numbers.html", 40))

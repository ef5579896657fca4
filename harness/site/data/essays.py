"""Essays and appendices: Markdown in site/essays/, with figures inserted as on all pages.

A file starts with `name: value` lines between two lines of three hyphens: title, description, kind
(essay or appendix) and order. The text is first rendered as a template, in which `measured`,
`published` and `verdict` show a series, a published figure and a claim; their output is escaped
before Markdown sees it. A typed number with a unit fails the build, except in a block quote whose
last line links to its source.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import paths
from harness.claims.beside import Placement
from harness.claims.claims import Claim
from harness.claims.published import Figure
from harness.errors import SiteError
from harness.measure.conditions import GUEST_KERNEL
from harness.measure.record import Scalar
from harness.site.data import evidence
from harness.site.data.corpus import Corpus, RecordEntry
from harness.site.data.evidence import Judged
from harness.site.data.record_summary import SeriesSummary, fits

DIRECTORY = paths.ESSAYS
KINDS = ("essay", "appendix")
_HEAD = re.compile(r"---\n(.*?)\n---\n", re.S)


@dataclass(frozen=True)
class Essay:
    """One file: `name` is its address, `text` its Markdown."""

    name: str
    title: str
    description: str
    kind: str
    order: int
    text: str

    @property
    def path(self) -> str:
        return f"{'essays' if self.kind == 'essay' else 'appendix'}/{self.name}.html"


@functools.cache
def found(directory: Path = DIRECTORY) -> Sequence[Essay]:
    """Every essay, then every appendix, in order. Raises SiteError for a file without a header."""
    made = []
    for path in sorted(directory.glob("*.md")):
        text = path.read_text(encoding="utf-8")
        head = _HEAD.match(text)
        lines = [line.split(":", 1) for line in (head[1].splitlines() if head else ())]
        facts = {name.strip(): value.strip() for name, value in lines}
        if not head or set(facts) != {"title", "description", "kind", "order"}:
            raise SiteError(f"{path.name} must begin with title, description, kind and order")
        if facts["kind"] not in KINDS:
            raise SiteError(f"{path.name}: kind is one of {', '.join(KINDS)}")
        made.append(
            Essay(
                path.stem,
                facts["title"],
                facts["description"],
                facts["kind"],
                int(facts["order"]),
                text[head.end() :],
            )
        )
    return sorted(made, key=lambda one: (KINDS.index(one.kind), one.order))


class Lookup:
    """What an essay can look up by name."""

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus

    def series(
        self, rig: str, metric: str, **dimensions: Scalar
    ) -> tuple[RecordEntry, SeriesSummary] | None:
        """The newest series of the full profile on this machine, else the newest of any."""
        chosen = GUEST_KERNEL in dimensions
        newest = self._corpus.newest(rig, self._corpus.machine, metric, any_kernel=chosen)
        fitting = [one for one in newest if fits(one[2].dimensions, dimensions)]
        if not fitting:
            return None
        full = [one for one in fitting if one[1].summary.profile == "full"]
        # Of several in one record the first.
        _, entry, series = max(full or fitting, key=lambda one: (one[0], -one[2].number))
        return entry, series

    def proof(
        self, rig: str, metric: str, **dimensions: Scalar
    ) -> tuple[RecordEntry, SeriesSummary] | None:
        """The newest function-only series of any machine."""
        for (name, _), entries in self._corpus.function_only_records.items():
            for entry in reversed(entries) if name == rig else ():
                found = entry.summary.find(metric, dimensions)
                meant = entry.summary.guest_kernel is None or GUEST_KERNEL in dimensions
                if meant and found and found.n and entry.summary.proves(found):
                    return entry, found
        return None

    def figure(self, id: str) -> Figure:
        """A published figure; an unknown id fails the build."""
        found = self._corpus.figure(id)
        if found is None:
            raise KeyError(f"unknown published figure {id!r}")
        return found

    def placement(self, id: str) -> Placement:
        """Where a published figure stands beside ours; an id without a place fails the build."""
        found = self._corpus.beside.find(id)
        if found is None:
            raise KeyError(f"the published figure {id!r} has no place in beside.yaml")
        return found

    def claim(self, id: str) -> tuple[Claim, Judged | None]:
        """A claim and its deciding answer here; an unknown id fails the build."""
        for one in self._corpus.claims:
            if one.id == id:
                several = evidence.judged(self._corpus, one, self._corpus.machine)
                return one, evidence.deciding(several)
        raise KeyError(f"unknown claim {id!r}")

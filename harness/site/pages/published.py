"""Published figures, each with publisher, date, clock, label, source and our remark."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from harness.claims import published
from harness.claims.published import Figure
from harness.site.data.corpus import Corpus
from harness.site.page import Document, Item, Nav, Page

_TITLES = {
    "cold-start": "Start",
    "memory": "Memory",
    "snapshot": "Snapshots",
    "network": "Network",
    "policy": "Network policy",
    "sdk": "E2B compatibility",
}


@dataclass(frozen=True)
class FigureSet:
    """Figures of one publisher that were measured under the same conditions."""

    conditions: str
    figures: Sequence[Figure]


@dataclass(frozen=True)
class Publisher:
    name: str
    sets: Sequence[FigureSet]

    @property
    def size(self) -> int:
        return sum(len(one.figures) for one in self.sets)


def _publisher(name: str, figures: Sequence[Figure]) -> Publisher:
    sets: dict[str, list[Figure]] = {}
    for one in figures:
        text = "; ".join(part for part in (one.conditions, one.when_note) if part)
        sets.setdefault(text or "conditions not stated", []).append(one)
    return Publisher(name, [FigureSet(text, found) for text, found in sets.items()])


def _topic(figures: Sequence[Figure]) -> Sequence[Publisher]:
    """Publishers of one topic, those with the most figures first."""
    by_name: dict[str, list[Figure]] = {}
    for one in figures:
        by_name.setdefault(one.publisher, []).append(one)
    found = [_publisher(name, own) for name, own in by_name.items()]
    return sorted(found, key=lambda one: (-one.size, one.name.lower()))


def _host(address: str) -> str:
    return urlsplit(address).netloc.removeprefix("www.")


def _render(corpus: Corpus) -> Iterator[Item]:
    topics = {one.topic for one in corpus.published}
    known = [one for one in _TITLES if one in topics] + sorted(topics - set(_TITLES))
    used = {one.clock for one in corpus.published}
    yield Document(
        "published.html",
        "published.html",
        "Published figures",
        "Figures that others publish about sandboxes, with date, clock and source.",
        {
            "groups": {
                topic: _topic([one for one in corpus.published if one.topic == topic])
                for topic in known
            },
            "topics": {topic: _TITLES.get(topic, topic.capitalize()) for topic in known},
            "used": [clock for clock in published.clocks().values() if clock.id in used],
            "host": _host,
        },
    )


PAGE = Page(_render, Nav("Published figures", "published.html", 62, foot=True))

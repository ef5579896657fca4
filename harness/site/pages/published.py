"""Published figures, each with publisher, date, clock, label, source and our remark."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from harness.claims import published
from harness.claims.published import Figure
from harness.site.data.addresses import published_page
from harness.site.data.corpus import Corpus
from harness.site.data.files import as_csv, as_json
from harness.site.page import Asset, Document, Item, Nav, Page

_TITLES = {
    "cold-start": "Start",
    "memory": "Memory",
    "snapshot": "Snapshots",
    "network": "Network",
    "policy": "Network policy",
    "sdk": "E2B compatibility",
}


COLUMNS = (
    "id", "publisher", "subject", "topic", "what", "as_written", "value", "upper", "of", "partial",
    "unit", "statistic", "clock", "concurrency", "when", "label", "source", "conditions", "remark",
    "state", "withdrawn_when", "withdrawn_by", "withdrawn_why", "withdrawn_source", "replaced_by",
)  # fmt: skip


def _cells(one: Figure) -> Sequence[object]:
    """The values of COLUMNS; numbers in SI units."""
    gone = one.withdrawn
    return (
        *(getattr(one, name) for name in COLUMNS[:19]),
        one.state or None,
        *((gone.when, gone.by, gone.why, gone.source) if gone else (None,) * 4),
        one.replaced_by or None,
    )


@dataclass(frozen=True)
class FigureSet:
    """Figures of one publisher of one source and day, measured under the same conditions."""

    conditions: str
    label: str
    when: str
    source: str
    figures: Sequence[Figure]


@dataclass(frozen=True)
class Publisher:
    name: str
    sets: Sequence[FigureSet]

    @property
    def size(self) -> int:
        return sum(len(one.figures) for one in self.sets)


def _publisher(name: str, figures: Sequence[Figure]) -> Publisher:
    sets: dict[tuple[str, str, str, str], list[Figure]] = {}
    for one in figures:
        text = "; ".join(part for part in (one.conditions, one.when_note) if part)
        about = (text or "conditions not stated", one.label, one.when, one.source)
        sets.setdefault(about, []).append(one)
    return Publisher(name, [FigureSet(*about, found) for about, found in sets.items()])


def _topic(figures: Sequence[Figure]) -> Sequence[Publisher]:
    """Publishers of one topic, those with the most figures first."""
    by_name: dict[str, list[Figure]] = {}
    for one in figures:
        by_name.setdefault(one.publisher, []).append(one)
    found = [_publisher(name, own) for name, own in by_name.items()]
    return sorted(found, key=lambda one: (-one.size, one.name.lower()))


def _host(address: str) -> str:
    return urlsplit(address).netloc.removeprefix("www.")


def _document(path: str, title: str, corpus: Corpus) -> Document:
    """The figures of those topics that are on this page."""
    topics = {one.topic for one in corpus.published}
    known = [one for one in _TITLES if one in topics] + sorted(topics - set(_TITLES))
    here = [one for one in known if published_page(one) == path]
    used = {one.clock for one in corpus.published}
    return Document(
        path,
        "published.html",
        title,
        "Figures that others publish about sandboxes, with date, clock and source.",
        {
            "groups": {
                topic: _topic([one for one in corpus.published if one.topic == topic])
                for topic in here
            },
            "topics": {topic: _TITLES.get(topic, topic.capitalize()) for topic in known},
            "page_of": published_page,
            "first": path == "published.html",
            "used": [clock for clock in published.clocks().values() if clock.id in used],
            "host": _host,
            "states": published.STATES,
            "by_id": {one.id: one for one in corpus.published},
        },
    )


def _render(corpus: Corpus) -> Iterator[Item]:
    yield _document("published.html", "Published figures", corpus)
    yield _document(published_page("cold-start"), "Published figures: start", corpus)
    rows = [_cells(one) for one in corpus.published]
    yield Asset("published.csv", as_csv(COLUMNS, rows))
    yield Asset(
        "published.json",
        as_json(
            {
                "schema": "coppice.published/1",
                "figures": [dict(zip(COLUMNS, row, strict=True)) for row in rows],
                "matrices": [vars(one) for one in corpus.matrices],
            }
        ),
    )


PAGE = Page(_render, Nav("Published figures", "published.html", 62, foot=True))

"""What others publish: every figure with who, when, clock, label, source and our remark."""

from __future__ import annotations

from collections.abc import Iterator

from harness.claims import published
from harness.site.corpus import Corpus
from harness.site.page import Asset, Document, Nav, Page

_TOPICS = {
    "cold-start": "Start",
    "memory": "Memory",
    "snapshot": "Snapshots",
    "network": "Network",
    "policy": "Network policy",
    "sdk": "E2B compatibility",
}


def _render(corpus: Corpus) -> Iterator[Document | Asset]:
    groups: dict[str, dict[str, list[published.Figure]]] = {}
    known = [*_TOPICS, *sorted({one.topic for one in corpus.published} - set(_TOPICS))]
    for topic in known:
        for one in corpus.published:
            if one.topic == topic:
                groups.setdefault(topic, {}).setdefault(one.publisher, []).append(one)
    used = {one.clock for one in corpus.published}
    yield Document(
        "published.html",
        "published.html",
        "Published figures",
        "What others say about sandboxes: who, when, under which clock, and where.",
        {
            "groups": groups,
            "topics": {topic: _TOPICS.get(topic, topic.capitalize()) for topic in known},
            "used": [clock for clock in published.clocks().values() if clock.id in used],
        },
    )


PAGE = Page(_render, Nav("Published figures", "published.html", 40))

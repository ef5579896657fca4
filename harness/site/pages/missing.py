"""The page that a server shows for an address that does not exist."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from harness.site.data.corpus import Corpus
from harness.site.page import Document, Item, Page


def _render(corpus: Corpus) -> Iterator[Item]:
    # It is shown at any depth, so that its links must start at the root.
    yield Document(
        "404.html",
        "missing.html",
        "No such page",
        "This page does not exist.",
        rooted=urlsplit(corpus.address).path or "/",
    )


PAGE = Page(_render)

"""Machine-readable files: index, claims as CSV, schema, JSON-LD, RO-Crate, Atom feed, in-toto."""

from __future__ import annotations

from collections.abc import Iterator

from harness.measure.record import SCHEMA_FILE
from harness.site.data import exports
from harness.site.data.corpus import Corpus
from harness.site.page import Asset, Item, Page


def _render(corpus: Corpus) -> Iterator[Item]:
    yield Asset("index.json", exports.index(corpus))
    yield Asset("claims.csv", exports.claims_csv(corpus))
    yield Asset(f"schema/{SCHEMA_FILE.name}", SCHEMA_FILE.read_bytes())
    yield Asset("dataset.jsonld", exports.as_json(exports.dataset(corpus)))
    yield Asset("ro-crate-metadata.json", exports.as_json(exports.crate(corpus)))
    yield Asset("feed.xml", exports.feed(corpus))
    yield Asset("statement.intoto.json", exports.as_json(exports.statement(corpus)))


PAGE = Page(_render, long=True)

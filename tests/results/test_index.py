"""The index of the committed records is that of `coppice archive`, and each is where it belongs."""

from __future__ import annotations

import json
from pathlib import Path

from harness.measure import archive
from harness.measure.record import digest, find
from harness.measure.record_digests import INDEX, beside
from tests.site.conftest import kept

__all__ = ["kept"]

AGAIN = "run: coppice archive && coppice export --ro-crate"


def test_the_committed_records_are_in_order(kept: Path) -> None:
    plan = archive.plan(kept)
    assert plan.problems == [] and plan.named == []
    assert plan.moves == [], AGAIN
    assert plan.indexed, AGAIN


def test_the_index_and_the_crate_name_every_committed_record_with_its_digest(kept: Path) -> None:
    by_path = {path.relative_to(kept).as_posix(): digest(path) for path in find(kept)}
    rows = json.loads((kept / INDEX).read_bytes())["records"]
    assert {row["path"]: row["sha256"] for row in rows} == by_path
    graph = json.loads((kept / "ro-crate-metadata.json").read_bytes())["@graph"]
    crate = {one["@id"]: one["sha256"] for one in graph if one["@type"] == "File"}
    assert crate == by_path, AGAIN


def test_no_file_beside_the_records_is_read_by_nothing(kept: Path) -> None:
    records = set(find(kept))
    files = {path for path in kept.rglob("*.json") if "published" not in path.parts}
    known = {kept / INDEX, kept / "ro-crate-metadata.json", *records, *map(beside, records)}
    assert files <= known

"""The database of a gateway, also as older versions wrote it."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

from harness.gateway.sandboxes.store import FILE, Snapshot, opened

SNAPSHOT = Snapshot("nightly-1", "key", ["nightly"], "/state/saved/snapshot-1", "base", "i1", 1.5)


def test_a_snapshot_is_read_as_it_was_stored(tmp_path: Path) -> None:
    with opened(tmp_path / FILE) as store:
        store.put_snapshot(SNAPSHOT)
    with opened(tmp_path / FILE) as store:
        assert store.snapshots() == [SNAPSHOT]


def test_a_snapshot_of_an_older_gateway_has_its_directory_under_another_key(tmp_path: Path) -> None:
    document = {
        "id": "nightly-1",
        "key_id": "key",
        "names": ["nightly"],
        "folder": "/state/saved/snapshot-1",
        "template": "base",
        "sandbox_id": "i1",
        "created": 1.5,
    }
    with opened(tmp_path / FILE):
        pass  # makes the tables
    connection = sqlite3.connect(tmp_path / FILE)
    with connection:
        connection.execute(
            "insert into snapshots values (?, ?, ?)", ("nightly-1", "key", json.dumps(document))
        )
    connection.close()
    with opened(tmp_path / FILE) as store:
        assert store.snapshots() == [SNAPSHOT]
        store.put_snapshot(store.snapshots()[0])
        assert store.snapshots() == [SNAPSHOT]


def test_a_key_that_another_process_revokes_is_refused_from_then_on(tmp_path: Path) -> None:
    with opened(tmp_path / FILE) as serving, opened(tmp_path / FILE) as other:
        (first, secret), (second, later) = (other.new_key(name) for name in "ab")
        assert serving.key_of(secret) == serving.key_of(secret) == first
        assert other.revoke(first.id)
        assert serving.key_of(secret) is None
        assert serving.key_of(later) == second
        assert serving.revoke(second.id)
        assert serving.key_of(later) is None and other.key_of(later) is None

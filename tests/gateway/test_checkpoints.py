"""Checkpoints of the gateway's database beside the event loop."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.gateway.sandboxes import checkpoints
from harness.gateway.sandboxes.database import Database, Put
from tests.host.processes import eventually

PAGE_AND_HEADER = 4096 + 24


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(tmp_path / "gateway.db")
    yield opened
    opened.close()


def log_pages(database: Database) -> int:
    log = database.path.with_name(f"{database.path.name}-wal")
    return (log.stat().st_size - 32) // PAGE_AND_HEADER


def fill(database: Database, transactions: int) -> None:
    for number in range(transactions):
        database.apply(Put("facts", (f"name{number % 7}", "x" * 100)))


def in_the_database(database: Database) -> bytes:
    return database.path.read_bytes()


def test_the_log_is_copied_by_another_thread(database: Database) -> None:
    with checkpoints.in_background(database):
        fill(database, checkpoints.TRANSACTIONS)
        eventually(lambda: b"name1" in in_the_database(database), 60)


def test_the_log_does_not_grow_without_end(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "TRANSACTIONS", 1 << 30)  # as if the thread never finished
    with checkpoints.in_background(database):
        fill(database, checkpoints.PAGES_MAX)
        assert log_pages(database) < checkpoints.PAGES_MAX + 20
        assert b"name1" in in_the_database(database)


def test_afterwards_checkpoints_are_sqlites_own(database: Database) -> None:
    with checkpoints.in_background(database):
        fill(database, 1)
    assert database.execute("pragma wal_autocheckpoint") == [(1000,)]
    assert "checkpoints" not in [thread.name for thread in threading.enumerate()]

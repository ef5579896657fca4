"""Checkpoints of the gateway's database in a thread.

A checkpoint copies the write-ahead log into the database and waits for the disk three times, some
milliseconds each. SQLite makes it in the transaction that fills the log: on the event loop, all
callers would wait for the disk.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from harness.gateway.sandboxes.database import Database

TRANSACTIONS = 200
"""After which the log is copied: about a thousand pages, SQLite's own measure."""
PAGES_MAX = 2500
"""Of the log, at which the event loop copies it after all. A thread cannot finish while there are
changes all the time, and what only the log holds is lost if the log is damaged."""


@contextlib.contextmanager
def in_background(database: Database) -> Iterator[None]:
    """While the block runs, a thread makes the checkpoints."""
    due, ended = threading.Event(), threading.Event()

    def run() -> None:
        with database.second_connection() as checkpoint:
            while due.wait() and not ended.is_set():
                due.clear()
                checkpoint()

    thread = threading.Thread(target=run, name="checkpoints", daemon=True)
    thread.start()
    try:
        with database.checkpointed_elsewhere(due.set, TRANSACTIONS, PAGES_MAX):
            yield
    finally:
        ended.set()
        due.set()
        thread.join()

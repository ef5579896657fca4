"""A gateway's SQLite database: opened, checked, and with a digest of each row.

SQLite notices a damaged page by its structure only; a flipped bit in a value gives another value.
So each row has a digest, in a table of its own: a trigger drops it when anything else changes the
row (an older gateway, or a person), and such a row is believed if it can be read.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import CoppiceError, DiskFull, PathError, StateError, UsageError

CHECKPOINT_PAGES = 1000
"""Of the log, at which SQLite makes a checkpoint by itself."""
SCHEMA = 1
"""`user_version`: 0 before rows had digests."""
TABLES = ("facts", "keys", "sandboxes", "snapshots")
_CREATE = """
create table if not exists facts (name text primary key, value text not null);
create table if not exists keys (
  id text primary key, name text not null, hash text not null unique, mask text not null,
  limits text not null, created real not null, revoked real);
create table if not exists sandboxes (
  id text primary key, key_id text not null, state text not null, doc text not null);
create table if not exists snapshots (
  id text primary key, key_id text not null, doc text not null);
create table if not exists digests (
  kind text not null, id text not null, digest text not null, primary key (kind, id));
"""
_TRIGGER = """
create trigger if not exists {table}_{event} after {event} on {table} begin
  delete from digests where kind = '{table}' and id = {row}.{key};
end;
"""


@dataclass(frozen=True)
class Put:
    """A row inserted or replaced; its first value is its key."""

    table: str
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Removal:
    """A row deleted."""

    table: str
    key: str


class Database:
    """For any thread. Raises StateError, DiskFull and PathError, which leave the file as it is."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._transactions, self._every = 0, 1
        self._due: Callable[[], object] | None = None
        import sqlite3  # FreeBSD packages it apart from Python, and rigs import this module

        self._error: type[Exception] = sqlite3.Error
        with self._translated(), contextlib.ExitStack() as undo:
            _create_file(path)
            self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            # A text that is not UTF-8 damages its row alone: the row's digest differs.
            self._connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
            undo.callback(self._connection.close)
            self._check()
            self._connection.execute("pragma journal_mode=wal")
            self._connection.execute("pragma synchronous=normal")
            if self._version() < SCHEMA or not self._complete():
                self._create()
            # What only the log holds is lost if the log is damaged: keep it short.
            self._connection.execute("pragma wal_checkpoint(truncate)")
            undo.pop_all()

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    @contextlib.contextmanager
    def checkpointed_elsewhere(
        self, due: Callable[[], object], transactions: int, pages: int
    ) -> Iterator[None]:
        """While the block runs, `due` is called after so many transactions, and this connection
        makes a checkpoint only if the log has so many pages."""
        self.execute(f"pragma wal_autocheckpoint={pages}")
        self._due, self._every = due, transactions
        try:
            yield
        finally:
            self._due = None
            self.execute(f"pragma wal_autocheckpoint={CHECKPOINT_PAGES}")

    @contextlib.contextmanager
    def second_connection(self) -> Iterator[Callable[[], None]]:
        """For another thread: what makes a checkpoint, which holds up no change. One that fails is
        made later."""
        import sqlite3

        with contextlib.closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("pragma synchronous=normal")

            def checkpoint() -> None:
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("pragma wal_checkpoint(passive)").fetchall()

            yield checkpoint

    def _version(self) -> int:
        version: int = self._connection.execute("pragma user_version").fetchone()[0]
        return version

    def _check(self) -> None:
        if (version := self._version()) > SCHEMA:
            raise StateError(
                f"{self.path} was written by a newer Coppice: it has schema {version}, "
                f"this one knows schemas up to {SCHEMA}",
                hint="use that version, or another directory with --state",
            )
        problems = self._connection.execute("pragma integrity_check(3)").fetchall()
        if problems != [("ok",)]:
            what = "; ".join(problem.strip().replace("\n", " ") for (problem,) in problems)
            raise _damaged(self.path, what)

    def _complete(self) -> bool:
        found = self._connection.execute("select name from sqlite_master where type = 'table'")
        return {*TABLES, "digests"} <= {name for (name,) in found.fetchall()}

    def _create(self) -> None:
        triggers = "".join(
            _TRIGGER.format(table=table, event=event, row=row, key=_key_of(table))
            for table in TABLES
            for event, row in (("insert", "new"), ("update", "old"), ("delete", "old"))
        )
        self._connection.executescript(
            f"begin immediate; {_CREATE} {triggers} pragma user_version={SCHEMA}; commit;"
        )

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except CoppiceError:
            raise
        except UnicodeDecodeError as error:
            raise _damaged(self.path, "its schema is not text") from error
        except (OSError, self._error) as error:
            raise _translated(self.path, error) from error

    def execute(self, text: str, *values: Any) -> list[Any]:
        """Run a statement that changes nothing, or nothing that has a digest."""
        with self._lock, self._translated():
            return self._connection.execute(text, values).fetchall()

    def version(self) -> int:
        """A number that is another one after another process has changed the database."""
        number: int = self.execute("pragma data_version")[0][0]
        return number

    def apply(self, *changes: Put | Removal, durable: bool = False) -> None:
        """Make changes, all of them or none. If they are `durable`, they survive a power failure
        too."""
        self._transactions += 1
        if self._due and self._transactions % self._every == 0:
            self._due()
        with self._lock, self._translated():
            if durable:
                self._connection.execute("pragma synchronous=full")
            try:
                self._connection.execute("begin immediate")
                for change in changes:
                    self._make(change)
                self._connection.execute("commit")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("rollback")
                raise
            finally:
                if durable:
                    self._connection.execute("pragma synchronous=normal")

    def _make(self, change: Put | Removal) -> None:
        table = change.table
        if isinstance(change, Removal):
            key = _key_of(table)
            self._connection.execute(f"delete from {table} where {key} = ?", (change.key,))
            return
        values = change.values
        marks = ", ".join("?" * len(values))
        self._connection.execute(f"insert or replace into {table} values ({marks})", values)
        self._connection.execute(
            "insert or replace into digests values (?, ?, ?)",
            (table, values[0], _digest(table, values)),
        )

    def rows(self, table: str, where: str = "true", *values: Any) -> Iterator[tuple[Any, ...]]:
        """The rows of a table, each with whether it is undamaged as its first value."""
        key = _key_of(table)
        found = self.execute(
            f"select digest, {table}.* from {table} left join digests "
            f"on kind = '{table}' and digests.id = {table}.{key} where {where}",
            *values,
        )
        for digest, *row in found:
            yield digest is None or digest == _digest(table, row), *row


def _key_of(table: str) -> str:
    return "name" if table == "facts" else "id"


def _digest(table: str, values: Sequence[Any]) -> str:
    text = json.dumps([table, *values], default=repr)
    return hashlib.blake2b(text.encode(errors="replace"), digest_size=16).hexdigest()


def _create_file(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))


def _damaged(path: Path, what: str) -> StateError:
    return StateError(
        f"the gateway's database {path} is damaged ({what}); it was left as it is",
        hint=f"put back a copy of it, or recover it: sqlite3 {path} .recover | sqlite3 NEW",
    )


def _translated(path: Path, error: Exception) -> CoppiceError:
    """The error of an operation on the database."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    number = error.errno if isinstance(error, OSError) else 0
    if code == 13 or number in (errno.ENOSPC, errno.EDQUOT) or (code in (10, 14) and _full(path)):
        return DiskFull(
            f"no space left for the gateway's database {path}; what it holds is unchanged",
            hint="free some space, or choose a directory on another disk with --state",
        )
    if code in (11, 26):
        return _damaged(path, str(error))
    if code in (5, 6):
        return UsageError(f"{path} is locked by another program")
    if path.is_dir():
        why = "it is a directory"
    else:
        why = (error.strerror if isinstance(error, OSError) else "") or str(error)
    return PathError(
        f"the gateway's database {path} cannot be used: {why}",
        hint="choose another directory with --state",
    )


def _full(path: Path) -> bool:
    with contextlib.suppress(OSError):
        found = os.statvfs(path.parent)
        return not found.f_bavail or not found.f_favail
    return False


def log_damage(path: Path) -> str:
    """What is wrong with the write-ahead log that a killed gateway left; "" if nothing is.

    SQLite takes a change with a wrong checksum for the end of the log and ignores what follows. No
    other process may use the database.
    """
    try:
        data = path.with_name(f"{path.name}-wal").read_bytes()
    except OSError:
        return ""
    if len(data) <= 32:
        return ""
    magic, _, size, _, *salts_and_sums = struct.unpack(">8I", data[:32])
    order = ">" if magic & 1 else "<"
    salts, sums = data[16:24], _checksum(order, data[:24], (0, 0))
    if magic >> 1 != 0x377F0682 >> 1 or sums != tuple(salts_and_sums[2:]) or size < 512:
        return "its header is damaged"
    frames = [data[at : at + 24 + size] for at in range(32, len(data) - 24 - size + 1, 24 + size)]
    for index, frame in enumerate(frames):
        sums = _checksum(order, frame[:8], sums)
        sums = _checksum(order, frame[24:], sums)
        if frame[8:16] != salts or struct.unpack(">2I", frame[16:24]) != sums:
            # What an earlier use of the file has left has other salts.
            if any(each[8:16] == salts for each in frames[index:]):
                return f"page {index + 1} of {len(frames)} is damaged"
            return ""
    return ""


def _checksum(order: str, data: bytes, sums: tuple[int, int]) -> tuple[int, int]:
    first, second = sums
    numbers = struct.unpack(f"{order}{len(data) // 4}I", data)
    for even, odd in zip(numbers[::2], numbers[1::2], strict=True):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return first, second

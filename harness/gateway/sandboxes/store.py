"""A gateway's persistent state: its sandboxes, snapshots and keys, in an SQLite database.

Changes are committed before the caller is answered, so a killed gateway loses nothing that it has
confirmed. A power failure may lose the last moments, and the running sandboxes with them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FILE = "gateway.sqlite"
"""The database, in the directory of a gateway's state."""
_TABLES = """
create table if not exists facts (name text primary key, value text not null);
create table if not exists keys (
  id text primary key, name text not null, hash text not null unique, mask text not null,
  limits text not null, created real not null, revoked real);
create table if not exists sandboxes (
  id text primary key, key_id text not null, state text not null, doc text not null);
create table if not exists snapshots (
  id text primary key, key_id text not null, doc text not null);
"""
PREFIX = "e2b_"


@dataclass(frozen=True)
class Limits:
    """Of a key. `rate` is requests per second to the control plane, `burst` how many at once."""

    sandboxes: int = 1100
    memory_mib: int = 1 << 20
    request_bytes: int = 4 << 20
    rate: float = 2000.0
    burst: int = 4000


@dataclass(frozen=True)
class Key:
    """An API key without its secret, of which only a hash is stored."""

    id: str
    name: str
    mask: str
    limits: Limits
    created: float
    revoked: float | None = None


@dataclass
class StoredSandbox:
    """What is stored of a sandbox. Times are UTC seconds; `state` is running or paused.

    Its fields are the keys of the stored JSON: renaming a field breaks existing databases.
    """

    id: str
    key_id: str
    template: str
    state: str
    started: float
    ends: float
    metadata: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    network: dict[str, Any] = field(default_factory=dict)
    auto_pause: bool = False
    auto_resume: bool = False
    secure: bool = True
    timeout_s: float = 0
    identity: dict[str, Any] = field(default_factory=dict)
    pid: int = 0
    born: float = 0
    came_from: str = ""
    saved: str = ""
    """The directory from which a paused sandbox resumes."""
    deadline: float = 0
    boot: str = ""
    """The end of its time by the monotonic clock, and the boot that this clock counts from."""
    held: bool = False
    """Paused only because its gateway was stopped: the next gateway resumes it."""


@dataclass
class Snapshot:
    """What is stored of a snapshot; its fields are the keys of the stored JSON."""

    id: str
    key_id: str
    names: list[str]
    directory: str
    template: str
    sandbox_id: str
    created: float


class Store:
    """The database; for any thread."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        self._lock = threading.Lock()
        import sqlite3  # FreeBSD packages it apart from Python, and rigs import this module

        self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._connection.execute("pragma journal_mode=wal")
        self._connection.execute("pragma synchronous=normal")
        self._connection.executescript(_TABLES)

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def _execute(self, text: str, *values: Any) -> list[Any]:
        with self._lock:
            return self._connection.execute(text, values).fetchall()

    # Facts.

    def fact(self, name: str) -> str | None:
        found = self._execute("select value from facts where name = ?", name)
        return found[0][0] if found else None

    def note(self, name: str, value: str) -> None:
        self._execute("insert or replace into facts values (?, ?)", name, value)

    def secret(self) -> bytes:
        """The secret behind the sandboxes' tokens; generated on first use."""
        self._execute("insert or ignore into facts values ('secret', ?)", secrets.token_hex(32))
        return bytes.fromhex(self.fact("secret") or "")

    # Keys.

    def new_key(self, name: str, limits: Limits | None = None) -> tuple[Key, str]:
        """A new key and its secret, which is not stored."""
        secret = PREFIX + secrets.token_hex(20)
        mask = f"{secret[:8]}...{secret[-4:]}"
        key = Key(secrets.token_hex(8), name, mask, limits or Limits(), time.time())
        self._execute(
            "insert into keys values (?, ?, ?, ?, ?, ?, null)",
            key.id, name, hash_of(secret), mask, json.dumps(asdict(key.limits)), key.created,
        )  # fmt: skip
        return key, secret

    def key_of(self, secret: str) -> Key | None:
        """The key with this secret, unless it is revoked."""
        found = self._execute(
            "select * from keys where hash = ? and revoked is null", hash_of(secret)
        )
        return _key(found[0]) if found else None

    def all_keys(self) -> list[Key]:
        return [_key(row) for row in self._execute("select * from keys order by created")]

    def revoke(self, id: str) -> bool:
        update = "update keys set revoked = ? where id = ? and revoked is null returning id"
        return bool(self._execute(update, time.time(), id))

    # Sandboxes and snapshots.

    def put(self, sandbox: StoredSandbox) -> None:
        doc = json.dumps(vars(sandbox), separators=(",", ":"))
        self._execute(
            "insert or replace into sandboxes values (?, ?, ?, ?)",
            sandbox.id, sandbox.key_id, sandbox.state, doc,
        )  # fmt: skip

    def remove(self, id: str) -> None:
        self._execute("delete from sandboxes where id = ?", id)

    def sandboxes(self) -> Iterator[StoredSandbox]:
        for (doc,) in self._execute("select doc from sandboxes"):
            yield StoredSandbox(**json.loads(doc))

    def put_snapshot(self, snapshot: Snapshot) -> None:
        doc = json.dumps(asdict(snapshot))
        self._execute(
            "insert or replace into snapshots values (?, ?, ?)", snapshot.id, snapshot.key_id, doc
        )

    def remove_snapshot(self, id: str) -> None:
        self._execute("delete from snapshots where id = ?", id)

    def snapshots(self) -> list[Snapshot]:
        return [_snapshot(json.loads(doc)) for (doc,) in self._execute("select doc from snapshots")]


def hash_of(secret: str) -> str:
    """SHA-256: a secret of 160 random bits needs neither salt nor stretching."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _snapshot(stored: dict[str, Any]) -> Snapshot:
    if "folder" in stored:  # as older gateways stored it
        stored["directory"] = stored.pop("folder")
    return Snapshot(**stored)


def _key(row: Any) -> Key:
    id, name, _, mask, limits, created, revoked = row
    return Key(id, name, mask, Limits(**json.loads(limits)), created, revoked)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Store]:
    store = Store(path)
    try:
        yield store
    finally:
        store.close()

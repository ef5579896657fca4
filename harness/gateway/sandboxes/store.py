"""What a gateway must know after a restart: its sandboxes, snapshots and keys, in one SQLite file.

Written before a caller is answered. A gateway that is killed loses nothing that it said; a host
that loses its power may lose the last moments, and its running sandboxes with them.
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
    """Of one key. `rate` is requests a second to the control plane, `burst` how many at once."""

    sandboxes: int = 1100
    memory_mib: int = 1 << 20
    request_bytes: int = 1 << 20
    rate: float = 2000.0
    burst: int = 4000


@dataclass(frozen=True)
class Key:
    """An API key without its secret, of which only the hash is kept."""

    id: str
    name: str
    mask: str
    limits: Limits
    created: float
    revoked: float | None = None


@dataclass
class Record:
    """A sandbox as it is kept. Times are UTC seconds; `state` is running, paused or saving."""

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
    """The directory of the state that a paused one resumes from."""
    deadline: float = 0
    boot: str = ""
    """When its time is up by the clock that does not jump, and the boot from which that counts."""
    held: bool = False
    """It was running when its gateway was stopped, and runs again with the next."""


@dataclass
class Snapshot:
    id: str
    key_id: str
    names: list[str]
    directory: str
    template: str
    sandbox_id: str
    created: float


class Store:
    """The file; safe for many threads."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        self._lock = threading.Lock()
        import sqlite3  # FreeBSD's Python has it in a package of its own; rigs load without

        self._base = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._base.execute("pragma journal_mode=wal")
        self._base.execute("pragma synchronous=normal")
        self._base.executescript(_TABLES)

    def close(self) -> None:
        with self._lock:
            self._base.close()

    def _do(self, text: str, *values: Any) -> list[Any]:
        with self._lock:
            return self._base.execute(text, values).fetchall()

    # Facts.

    def fact(self, name: str) -> str | None:
        found = self._do("select value from facts where name = ?", name)
        return found[0][0] if found else None

    def note(self, name: str, value: str) -> None:
        self._do("insert or replace into facts values (?, ?)", name, value)

    def secret(self) -> bytes:
        """What tokens of sandboxes are made from; made once."""
        self._do("insert or ignore into facts values ('secret', ?)", secrets.token_hex(32))
        return bytes.fromhex(self.fact("secret") or "")

    # Keys.

    def new_key(self, name: str, limits: Limits | None = None) -> tuple[Key, str]:
        """A new key and its secret, which is nowhere else."""
        secret = PREFIX + secrets.token_hex(20)
        mask = f"{secret[:8]}...{secret[-4:]}"
        key = Key(secrets.token_hex(8), name, mask, limits or Limits(), time.time())
        self._do(
            "insert into keys values (?, ?, ?, ?, ?, ?, null)",
            key.id, name, hash_of(secret), mask, json.dumps(asdict(key.limits)), key.created,
        )  # fmt: skip
        return key, secret

    def key_of(self, secret: str) -> Key | None:
        """The key of a secret, unless it is revoked."""
        found = self._do("select * from keys where hash = ? and revoked is null", hash_of(secret))
        return _key(found[0]) if found else None

    def all_keys(self) -> list[Key]:
        return [_key(row) for row in self._do("select * from keys order by created")]

    def revoke(self, id: str) -> bool:
        changed = "update keys set revoked = ? where id = ? and revoked is null returning id"
        return bool(self._do(changed, time.time(), id))

    # Sandboxes and snapshots.

    def put(self, record: Record) -> None:
        doc = json.dumps(vars(record), separators=(",", ":"))
        self._do(
            "insert or replace into sandboxes values (?, ?, ?, ?)",
            record.id, record.key_id, record.state, doc,
        )  # fmt: skip

    def remove(self, id: str) -> None:
        self._do("delete from sandboxes where id = ?", id)

    def records(self) -> Iterator[Record]:
        for (doc,) in self._do("select doc from sandboxes"):
            yield Record(**json.loads(doc))

    def put_snapshot(self, one: Snapshot) -> None:
        doc = json.dumps(asdict(one))
        self._do("insert or replace into snapshots values (?, ?, ?)", one.id, one.key_id, doc)

    def remove_snapshot(self, id: str) -> None:
        self._do("delete from snapshots where id = ?", id)

    def snapshots(self) -> list[Snapshot]:
        return [Snapshot(**json.loads(doc)) for (doc,) in self._do("select doc from snapshots")]


def hash_of(secret: str) -> str:
    """SHA-256: a secret of 160 random bits needs no salt and no stretching."""
    return hashlib.sha256(secret.encode()).hexdigest()


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

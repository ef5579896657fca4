"""A gateway's persistent state: its sandboxes, snapshots and keys, in an SQLite database.

Changes are committed before they are carried out and before the caller is answered, so a killed
gateway loses nothing that it has confirmed. A power failure may lose the last moments, and the
running sandboxes with them; pauses and snapshots that were confirmed survive it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from harness.errors import StateError
from harness.gateway.sandboxes import checkpoints
from harness.gateway.sandboxes.database import TABLES, Database, Put, Removal
from harness.gateway.sandboxes.documents import decoded, encoded
from harness.gateway.sandboxes.group_commit import GroupCommit
from harness.host.run import DATABASE

FILE = DATABASE
"""The database, in the directory of a gateway's state."""
PREFIX = "e2b_"
COPY = "~"
"""Ends the name of the copy of a fact."""
log = logging.getLogger("coppice.gateway")
T = TypeVar("T")


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
    created_by: str = ""
    """The idempotency key and the digest of the request that created it, if it had a key."""
    pid: int = 0
    born: float = 0
    came_from: str = ""
    saved: str = ""
    """The directory from which a paused sandbox resumes."""
    saving: str = ""
    """The directory to which a running sandbox is being saved, to be paused."""
    deadline: float = 0
    boot: str = ""
    """The end of its time by the monotonic clock, and the boot that this clock counts from."""
    held: bool = False
    """Paused only because its gateway was stopped: the next gateway resumes it."""
    others: dict[str, Any] = field(default_factory=dict)
    """Fields of another version, which are kept as they are."""


@dataclass(frozen=True)
class Snapshot:
    """What is stored of a snapshot; its fields are the keys of the stored JSON."""

    id: str
    key_id: str
    names: list[str]
    directory: str
    template: str
    sandbox_id: str
    created: float
    others: dict[str, Any] = field(default_factory=dict)
    """Fields of another version, which are kept as they are."""


class Store:
    """The database; for any thread. A damaged row is left out and named in the log; `damaged` has
    the kind and key of each that was found."""

    def __init__(self, path: Path) -> None:
        self._database = Database(path)
        self._group = GroupCommit(self._database)
        self.damaged: set[tuple[str, str]] = set()
        self._keys: dict[str, Key] = {}
        """By the hash of their secret, as they were in version `_keys_of` of the database."""
        self._keys_of = -1
        self.fresh = self.fact("secret") is None
        """Whether no gateway has used the database before; it may have keys."""

    def close(self) -> None:
        self._group.commit()
        self._database.close()

    def checkpoints_in_background(self) -> contextlib.AbstractContextManager[None]:
        return checkpoints.in_background(self._database)

    def _apply(self, change: Put | Removal, durable: bool = False) -> None:
        """Make a change, after those that wait."""
        self._group.commit()
        self._database.apply(change, durable=durable)

    def check(self) -> None:
        """Read every row, so that `damaged` has all that are."""
        for table in TABLES:
            list(self._read(table, lambda *row: row))
        self.sandboxes()
        self.snapshots()
        self.all_keys()

    def _read(self, table: str, made: Callable[..., T], *where: Any) -> Iterator[T]:
        for whole, *row in self._database.rows(table, *where):
            try:
                if whole:
                    yield made(*row)
                    continue
                why = "its digest is another"
            except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
                why = f"{type(error).__name__}: {error}"
            name = (table, str(row[0]))
            if name not in self.damaged:
                self.damaged.add(name)
                fields = {"table": table, "row": name[1], "why": why, "file": str(self.path)}
                log.error("a row of the database is damaged and ignored", extra={"fields": fields})

    @property
    def path(self) -> Path:
        return self._database.path

    # Facts: stored twice, because the whole gateway depends on each.

    def fact(self, name: str, check: Callable[[str], object] = str) -> str | None:
        """`check` raises ValueError for a value that is none of this fact's."""

        def made(_: str, value: object) -> str:
            check(str(value))
            return str(value)

        for copy in (name, f"{name}{COPY}"):
            for value in self._read("facts", made, "name = ?", copy):
                return value
        if {("facts", name), ("facts", f"{name}{COPY}")} <= self.damaged:
            raise StateError(
                f"the gateway's database {self.path} has lost its {name}",
                hint=f"put back a copy of it, or: sqlite3 {self.path} "
                f"\"delete from facts where name like '{name}%'\"",
            )
        return None

    def note(self, name: str, value: str) -> None:
        for copy in (name, f"{name}{COPY}"):
            self._apply(Put("facts", (copy, value)))
            self.damaged.discard(("facts", copy))

    def secret(self) -> bytes:
        """The secret behind the sandboxes' tokens; generated on first use."""
        secret = self.fact("secret", bytes.fromhex) or secrets.token_hex(32)
        self.note("secret", secret)
        return bytes.fromhex(secret)

    # Keys.

    def new_key(self, name: str, limits: Limits | None = None) -> tuple[Key, str]:
        """A new key and its secret, which is not stored."""
        secret = PREFIX + secrets.token_hex(20)
        mask = f"{secret[:8]}...{secret[-4:]}"
        key = Key(secrets.token_hex(8), name, mask, limits or Limits(), time.time())
        limits_text = json.dumps(asdict(key.limits))
        row = (key.id, name, hash_of(secret), mask, limits_text, key.created, None)
        self._apply(Put("keys", row))
        return key, secret

    def key_of(self, secret: str) -> Key | None:
        """The key with this secret, unless it is revoked."""
        hash, version = hash_of(secret), self._database.version()
        if version != self._keys_of:
            self._keys.clear()
            self._keys_of = version
        key = self._keys.get(hash)
        if key is None:
            for key in self._read("keys", _key, "hash = ? and revoked is null", hash):
                self._keys[hash] = key
        return key

    def all_keys(self) -> list[Key]:
        return sorted(self._read("keys", _key), key=lambda key: key.created)

    def revoke(self, id: str) -> bool:
        """Whether a valid key has this id; it is revoked now. A damaged one can be revoked too."""
        for _, *row in self._database.rows("keys", "keys.id = ? and revoked is null", id):
            self._apply(Put("keys", (*row[:-1], time.time())))
            self._keys.clear()
            return True
        return False

    # Sandboxes and snapshots.

    def put(self, sandbox: StoredSandbox, durable: bool = False) -> None:
        self._apply(_row(sandbox), durable=durable)

    async def put_together(self, sandbox: StoredSandbox) -> None:
        """`put` it, in one transaction with what others change at the same time."""
        await self._group.add(_row(sandbox))

    async def remove_together(self, id: str) -> None:
        await self._group.add(Removal("sandboxes", id))

    def remove_later(self, id: str) -> None:
        """Remove it with a later change, since that has failed now."""
        self._group.owe(Removal("sandboxes", id))

    def remove(self, id: str) -> None:
        self._apply(Removal("sandboxes", id))

    def sandboxes(self) -> list[StoredSandbox]:
        return list(self._read("sandboxes", _sandbox))

    def put_snapshot(self, snapshot: Snapshot) -> None:
        row = (snapshot.id, snapshot.key_id, encoded(snapshot))
        self._apply(Put("snapshots", row), durable=True)

    def remove_snapshot(self, id: str) -> None:
        self._apply(Removal("snapshots", id))

    def snapshots(self) -> list[Snapshot]:
        return list(self._read("snapshots", _snapshot))


def _row(sandbox: StoredSandbox) -> Put:
    return Put("sandboxes", (sandbox.id, sandbox.key_id, sandbox.state, encoded(sandbox)))


def hash_of(secret: str) -> str:
    """SHA-256: a secret of 160 random bits needs neither salt nor stretching."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _sandbox(id: str, key_id: str, state: str, doc: str) -> StoredSandbox:
    stored = decoded(StoredSandbox, json.loads(doc))
    if (stored.id, stored.key_id) != (id, key_id) or stored.state not in ("running", "paused"):
        raise ValueError("it contradicts itself")
    return stored


def _snapshot(id: str, key_id: str, doc: str) -> Snapshot:
    stored = json.loads(doc)
    if "folder" in stored:  # as older gateways stored it
        stored["directory"] = stored.pop("folder")
    return decoded(Snapshot, stored)


def _key(
    id: str, name: str, _: str, mask: str, limits: str, created: float, revoked: float | None
) -> Key:
    if not isinstance(created, int | float) or not isinstance(revoked, int | float | None):
        raise ValueError("its times are not numbers")
    return Key(id, name, mask, decoded(Limits, json.loads(limits)), created, revoked)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Store]:
    store = Store(path)
    try:
        yield store
    finally:
        store.close()

"""Copies of sandboxes: snapshots, which are kept, and forks, which run."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.gateway.errors import ApiError, as_http
from harness.gateway.sandboxes.entries import Entry
from harness.gateway.sandboxes.store import Key, Record, Snapshot
from harness.host.process import run

if TYPE_CHECKING:
    from harness.gateway.sandboxes.service import Sandboxes


class Copies:
    """Of one gateway's sandboxes."""

    def __init__(self, own: Sandboxes) -> None:
        self._own = own

    async def take(self, entry: Entry, name: str | None) -> Snapshot:
        async with entry.lock:
            self._own.still(entry)
            id = f"{name or 'snapshot'}-{secrets.token_hex(6)}"
            with self._own.saved.begun("snapshot") as directory:
                if entry.live:
                    live = entry.live
                    await self._own.in_thread(
                        lambda: self._own.fleet.save(live, directory, False), saver=True
                    )
                else:
                    saved = Path(entry.record.saved)
                    # A state never changes: its files under another name are a copy.
                    await self._own.in_thread(
                        lambda: run("cp", "-a", "--link", "--", saved, directory), saver=True
                    )
                names = [name] if name else []
                made = Snapshot(
                    id, entry.record.key_id, names, str(directory), entry.record.template,
                    entry.id, time.time(),
                )  # fmt: skip
                self._own.store.put_snapshot(made)
            entry.say("snapshot taken", snapshot=id)
            return made

    def all(self, key: Key) -> Sequence[Snapshot]:
        found = [one for one in self._own.store.snapshots() if one.key_id == key.id]
        return sorted(found, key=lambda one: -one.created)

    def find(self, key: Key, id: str) -> Snapshot:
        for one in self.all(key):
            if id == one.id or id in one.names:
                return one
        raise ApiError(404, f"template {id!r} was not found")

    def forget(self, one: Snapshot) -> None:
        self._own.store.remove_snapshot(one.id)
        self._own.spawn(self._own.clear())

    async def fork(
        self, key: Key, entry: Entry, count: int, timeout_s: float
    ) -> Sequence[Entry | ApiError]:
        """Running copies of a live sandbox; what could not be made is an error among them."""

        with self._own.pending_of(key, count), self._own.saved.begun("fork") as directory:
            async with entry.lock:
                self._own.still(entry)
                if not (live := entry.live):
                    raise ApiError(409, f"sandbox {entry.id!r} is paused")
                await self._own.in_thread(
                    lambda: self._own.fleet.save(live, directory, False), saver=True
                )

            async def one() -> Entry:
                made = await self._own.in_thread(
                    lambda: self._own.fleet.resume(directory, None), saver=True
                )
                old = entry.record
                record = Record(
                    "i" + secrets.token_hex(10), key.id, old.template, "running", time.time(),
                    time.time() + timeout_s, metadata=dict(old.metadata),
                    environment=dict(old.environment), network=dict(old.network),
                    auto_pause=old.auto_pause, auto_resume=old.auto_resume, secure=old.secure,
                    timeout_s=timeout_s,
                )  # fmt: skip
                return await self._own.admitted(record, made)

            made = await asyncio.gather(*(one() for _ in range(count)), return_exceptions=True)
        found: list[Entry | ApiError] = []
        for each in made:
            if isinstance(each, Entry):
                found.append(each)
            elif isinstance(each, Exception):
                found.append(as_http(each))
            elif isinstance(each, BaseException):
                raise each
        entry.say("sandbox forked", count=count)
        return found

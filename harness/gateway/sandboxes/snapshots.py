"""Snapshots: saved copies of sandboxes, from which new ones are created."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from pathlib import Path

from harness.gateway import stages
from harness.gateway.errors import ApiError
from harness.gateway.sandboxes.sandbox import Sandbox
from harness.gateway.sandboxes.service import Sandboxes
from harness.gateway.sandboxes.store import Key, Snapshot
from harness.gateway.stages import reached
from harness.host.locks import half_built
from harness.host.process import run


class Snapshots:
    """The snapshots of a gateway's sandboxes."""

    def __init__(self, sandboxes: Sandboxes) -> None:
        self._sandboxes = sandboxes

    async def take(self, sandbox: Sandbox, name: str | None) -> Snapshot:
        return await self._sandboxes.workers.to_its_end(self._take(sandbox, name))

    async def _take(self, sandbox: Sandbox, name: str | None) -> Snapshot:
        own = self._sandboxes
        id = f"{name or 'snapshot'}-{secrets.token_hex(6)}"
        async with sandbox.lock:
            own.require_known(sandbox)
            with own.saved.new("snapshot") as directory:
                snapshot = Snapshot(
                    id, sandbox.stored.key_id, [name] if name else [], str(directory),
                    sandbox.stored.template, sandbox.id, time.time(),
                )  # fmt: skip
                if sandbox.running:
                    async with own.stopped_and_saved(sandbox, directory):
                        own.store.put_snapshot(snapshot)
                        reached(stages.SNAPSHOT_NOTED)
                else:
                    saved = Path(sandbox.stored.saved)
                    await own.workers.saving(sandbox.stored.key_id, lambda: _copy(saved, directory))
                    reached(stages.SAVED)
                    own.store.put_snapshot(snapshot)
            sandbox.log("snapshot taken", snapshot=id)
            return snapshot

    def of(self, key: Key) -> Sequence[Snapshot]:
        """A key's snapshots, the newest first."""
        snapshots = self._sandboxes.store.snapshots()
        own = [snapshot for snapshot in snapshots if snapshot.key_id == key.id]
        return sorted(own, key=lambda snapshot: -snapshot.created)

    def find(self, key: Key, id: str) -> Snapshot:
        """A key's snapshot by id or name; ApiError 404 for an unknown one."""
        for snapshot in self.of(key):
            if id == snapshot.id or id in snapshot.names:
                return snapshot
        raise ApiError(404, f"template {id!r} was not found")

    def remove(self, snapshot: Snapshot) -> None:
        self._sandboxes.store.remove_snapshot(snapshot.id)
        self._sandboxes.workers.spawn(self._sandboxes.remove_unneeded())


def _copy(saved: Path, directory: Path) -> None:
    """A second directory for a save. Saved sandboxes are immutable: hard links are a copy."""
    with half_built(directory) as target:
        run("cp", "-a", "--link", "--", f"{saved}/.", target)

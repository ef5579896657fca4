"""Changes of the state of sandboxes, each stored before it is carried out.

So a gateway that is killed at any moment loses no sandbox: its successor believes the store
(restart.py). Callers hold the sandbox's lock.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from harness.errors import (
    CoppiceError,
    GuestDied,
    GuestTimeout,
    SandboxError,
    StateError,
    WrongAnswer,
)
from harness.gateway import stages
from harness.gateway.errors import ApiError
from harness.gateway.fleets.protocol import RunningSandbox, SandboxFleet
from harness.gateway.metrics import Metrics
from harness.gateway.sandboxes.sandbox import Sandbox, now, until
from harness.gateway.sandboxes.saved_directories import SavedDirectories, remove_all
from harness.gateway.sandboxes.store import Key, Store, StoredSandbox
from harness.gateway.sandboxes.workers import Workers
from harness.gateway.stages import reached
from harness.host.run import SAVED

DESTROY_TRIES = 3
log = logging.getLogger("coppice.gateway")


class Lifecycle:
    """The sandboxes of a gateway in its memory, its store and its fleet.

    Raises StateError where the database is new and saved sandboxes are not: they would be removed.
    """

    def __init__(
        self, fleet: SandboxFleet, store: Store, directory: Path, metrics: Metrics
    ) -> None:
        self.fleet = fleet
        self.store = store
        self.metrics = metrics
        self.by_id: dict[str, Sandbox] = {}
        """Change it by `enter` and `forget`."""
        self._unpaused: Counter[str] = Counter()
        """By key."""
        self.saved = SavedDirectories(directory / SAVED)
        self.workers = Workers()
        if store.fresh and (entries := self.saved.entries()):
            raise StateError(
                f"the gateway's database {store.path} is new, but there are {len(entries)} saved "
                f"sandboxes in {entries[0].parent}, which would be removed",
                hint="put back the database, or move that directory away",
            )

    def note(self, sandbox: Sandbox, durable: bool = False, **changes: Any) -> None:
        """Store a change of a sandbox; what memory says changes once that is done."""
        stored = dataclasses.replace(sandbox.stored, **changes)
        self.store.put(stored, durable)
        self._count(sandbox, -1)
        sandbox.stored = stored
        self._count(sandbox, 1)
        sandbox.deadline = changes.get("deadline", sandbox.deadline)

    def enter(self, sandbox: Sandbox) -> None:
        """Serve a sandbox from now on."""
        self.by_id[sandbox.id] = sandbox
        self._count(sandbox, 1)

    def forget(self, sandbox: Sandbox) -> None:
        """Serve a sandbox no more."""
        self._count(sandbox, -1)
        self.by_id.pop(sandbox.id, None)

    def _count(self, sandbox: Sandbox, change: int) -> None:
        if sandbox.stored.state != "paused" and sandbox.id in self.by_id:
            self._unpaused[sandbox.stored.key_id] += change

    def running_of(self, key: Key) -> int:
        """The sandboxes of a key that are not paused."""
        return self._unpaused[key.id]

    async def add(self, stored: StoredSandbox, running: RunningSandbox) -> Sandbox:
        """Store a new sandbox, apply its rules and connect to it; it is ended if that fails."""
        reached(stages.TAKEN)
        sandbox = Sandbox(stored, running)
        try:
            sandbox.deadline = now() + stored.timeout_s
            located = {**running.location, **until(sandbox.deadline)}
            sandbox.stored = dataclasses.replace(stored, **located)
            await self.store.put_together(sandbox.stored)
            self.enter(sandbox)
            if stored.network:
                self.fleet.set_network_rules(running, stored.network)
            sandbox.envd = await running.connect()
        except BaseException:
            await self.workers.to_its_end(self.remove(sandbox))
            raise
        reached(stages.CREATED)
        sandbox.log("sandbox created", template=stored.template)
        self.metrics.count("created")
        return sandbox

    async def remove(self, sandbox: Sandbox) -> None:
        try:
            await self.store.remove_together(sandbox.id)
        except (CoppiceError, OSError) as error:
            if not sandbox.running:
                raise  # the next gateway would bring it back
            # It must end all the same. If that is never stored, the next gateway drops it.
            self.store.remove_later(sandbox.id)
            log_error("the end of a sandbox was not stored", sandbox, error)
        reached(stages.REMOVAL_NOTED)
        self.forget(sandbox)
        await self.end(sandbox)
        if self.saved.concerns(sandbox.stored):
            self.workers.spawn(self.remove_unneeded())
        self.metrics.count("ended")

    async def end(self, sandbox: Sandbox) -> None:
        running, sandbox.running = sandbox.running, None
        if running:
            await self.workers.ending(sandbox.stored.key_id, lambda: destroy(running))

    @contextlib.asynccontextmanager
    async def stopped_and_saved(self, sandbox: Sandbox, directory: Path) -> AsyncIterator[None]:
        """Stop a running sandbox and save it; the caller holds its lock.

        It continues after the block unless the block has ended it. A sandbox that does not stop in
        time, or does not continue, hangs: it is ended, and ApiError 503 is raised.
        """
        running, key_id = sandbox.running, sandbox.stored.key_id
        assert running
        try:
            await self.workers.long(key_id, lambda: self.fleet.stop(running))
        except (GuestTimeout, GuestDied, WrongAnswer) as error:
            raise await self._hung(sandbox, error) from error
        try:
            reached(stages.STOPPED)
            await self.workers.saving(key_id, lambda: self._save(running, directory))
            reached(stages.SAVED)
            yield
        finally:
            if sandbox.running:
                try:
                    await self.workers.long(key_id, lambda: self.fleet.run_on(running))
                except SandboxError as error:
                    raise await self._hung(sandbox, error) from error

    def _save(self, running: RunningSandbox, directory: Path) -> None:
        self.fleet.save(running, directory)
        handle = os.open(directory.parent, os.O_RDONLY)
        try:
            os.fsync(handle)  # its name must survive a power failure too
        finally:
            os.close(handle)

    async def _hung(self, sandbox: Sandbox, error: Exception) -> ApiError:
        log_error("sandbox hung, so it was ended", sandbox, error)
        self.metrics.count("hung")
        await self.remove(sandbox)
        return ApiError(503, f"sandbox {sandbox.id!r} hung and was ended: {error}")

    async def save_and_end(self, sandbox: Sandbox, held: bool = False) -> None:
        """Pause it. Until that is stored it runs on; then it ends."""
        with self.saved.new(sandbox.id) as directory:
            self.note(sandbox, saving=str(directory), held=held)
            reached(stages.SAVING_NOTED)
            try:
                async with self.stopped_and_saved(sandbox, directory):
                    self.note(
                        sandbox, durable=True, state="paused", saved=str(directory), saving="",
                        pid=0, came_from="",
                    )  # fmt: skip
                    reached(stages.PAUSE_NOTED)
                    if sandbox.envd:
                        sandbox.envd.close()
                    sandbox.envd = None
                    await self.end(sandbox)
                    reached(stages.ENDED)
            except BaseException:
                if sandbox.id in self.by_id and sandbox.running:
                    with contextlib.suppress(CoppiceError, OSError):
                        self.note(sandbox, saving="", held=False)
                raise
        sandbox.processes_known = False
        self.workers.spawn(self.remove_unneeded())
        sandbox.log("sandbox paused")
        self.metrics.count("paused")

    async def resume_saved(self, sandbox: Sandbox, timeout_s: float) -> None:
        """Until it runs and that is stored, it stays paused."""
        stored = sandbox.stored
        directory, names = Path(stored.saved), dict(stored.identity)
        running = await self.workers.made(
            stored.key_id, lambda: self.fleet.resume(directory, names)
        )
        reached(stages.RESTORED)
        try:
            if stored.network:
                self.fleet.set_network_rules(running, stored.network)
            envd = await running.connect()
            self.note(
                sandbox, state="running", saved="", held=False, timeout_s=timeout_s,
                **running.location, **until(now() + timeout_s),
            )  # fmt: skip
        except BaseException:
            await self.workers.ending(stored.key_id, lambda: destroy(running))
            raise
        sandbox.running, sandbox.envd = running, envd
        reached(stages.RESUME_NOTED)
        self.workers.spawn(self.remove_unneeded())
        sandbox.log("sandbox resumed")
        self.metrics.count("resumed")

    async def remove_unneeded(self) -> None:
        """Remove saved directories that nothing refers to."""
        unneeded = self.unneeded()
        if unneeded:
            await self.workers.short(lambda: remove_all(unneeded))

    def unneeded(self) -> Sequence[Path]:
        stored = [sandbox.stored for sandbox in self.by_id.values()]
        return self.saved.unneeded(stored, self.store.snapshots())


def destroy(running: RunningSandbox) -> None:
    """End a sandbox; what fails is tried again, and left to the next gateway in the end."""
    for _ in range(DESTROY_TRIES):
        try:
            running.destroy()
            return
        except (CoppiceError, OSError) as error:
            fields = {"sandbox": running.id, "why": str(error)}
            log.error("a sandbox was not removed entirely", extra={"fields": fields})


def log_error(message: str, sandbox: Sandbox, error: Exception | None = None) -> None:
    """Log an error that concerns one sandbox."""
    why = {"why": str(error)} if error else {}
    log.error(message, extra={"fields": {"sandbox": sandbox.id, **why}})

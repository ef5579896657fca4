"""A gateway whose fleet waits or fails where a test says so."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from harness.errors import GuestDied
from harness.gateway.envd.client import Envd
from harness.gateway.fleets.noop import NoopFleet, NoopSandbox
from harness.gateway.metrics import Metrics
from harness.gateway.sandboxes import workers
from harness.gateway.sandboxes.sandbox import Sandbox
from harness.gateway.sandboxes.service import Sandboxes
from harness.gateway.sandboxes.store import Key, Store

LIMIT_S = 60
"""Only a bound against hanging."""
BASE = {"templateID": "base"}


class Undying(NoopSandbox):
    """Takes as long to end as the test says."""

    def __init__(self, wait: Callable[[], None]) -> None:
        super().__init__()
        self._wait = wait

    def destroy(self) -> None:
        self._wait()
        super().destroy()


class Deaf(NoopSandbox):
    """Its envd does not answer."""

    async def connect(self) -> Envd:
        raise GuestDied("no answer")


class Fleet(NoopFleet):
    """A fleet whose work waits or fails where the test says so."""

    def __init__(self) -> None:
        self.hung: set[str] = set()
        self.waiting = threading.Semaphore(0)
        self.go_on = threading.Event()
        self.stopping: Exception | None = None
        self.saving: Exception | None = None
        self.continuing: Exception | None = None
        self.deaf = False
        self.made: list[NoopSandbox] = []
        self.continued: list[str] = []

    def _wait(self) -> None:
        self.waiting.release()
        assert self.go_on.wait(LIMIT_S)

    async def take(self, template: str, key_id: str, timeout_s: float) -> NoopSandbox:
        self.made.append(Undying(self._wait) if "end" in self.hung else NoopSandbox())
        return self.made[-1]

    def stop(self, sandbox: Any) -> None:
        if sandbox.id in self.hung:
            self._wait()
        if self.stopping:
            raise self.stopping

    def save(self, sandbox: Any, directory: Path) -> None:
        if self.saving:
            raise self.saving
        super().save(sandbox, directory)

    def run_on(self, sandbox: Any) -> None:
        self.continued.append(sandbox.id)
        if self.continuing:
            raise self.continuing

    def resume(self, directory: Path, names: Mapping[str, Any] | None) -> NoopSandbox:
        if "resume" in self.hung:
            self._wait()
        assert directory.is_dir()
        self.made.append(Deaf() if self.deaf else NoopSandbox())
        return self.made[-1]


class Own:
    """A gateway's sandboxes with that fleet."""

    def __init__(self, directory: Path, store: Store) -> None:
        self.fleet = Fleet()
        self.store = store
        self.sandboxes = Sandboxes(self.fleet, store, directory, Metrics())
        self.saved = directory / "saved"
        self.key, self.other = (store.new_key(name)[0] for name in ("own", "other"))

    async def create(self, key: Key | None = None, **body: Any) -> Sandbox:
        return await self.sandboxes.create(key or self.key, {**BASE, **body}, 600)

    async def hang(self, count: int) -> list[asyncio.Task[None]]:
        """Pauses of this many sandboxes that hang, each of which has begun."""
        sandboxes = [await self.create() for _ in range(count)]
        self.fleet.hung = {each.running.id for each in sandboxes if each.running}
        pauses = [asyncio.create_task(self.sandboxes.pause(each)) for each in sandboxes]
        for _ in range(min(count, workers.LONG_OF_A_KEY)):
            assert await asyncio.to_thread(self.fleet.waiting.acquire, timeout=LIMIT_S)
        return pauses

    @property
    def states(self) -> list[str]:
        """As the next gateway would find them."""
        return sorted(stored.state for stored in self.store.sandboxes())

    @property
    def alive(self) -> int:
        return sum(sandbox.alive() for sandbox in self.fleet.made)

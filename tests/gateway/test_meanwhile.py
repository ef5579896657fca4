"""A kill that arrives while a sandbox resumes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.gateway.errors import ApiError
from harness.gateway.fleets.noop import NoopFleet, NoopSandbox
from harness.gateway.metrics import Metrics
from harness.gateway.sandboxes.service import Sandboxes
from harness.gateway.sandboxes.store import Store


class WaitingFleet(NoopFleet):
    """A fleet that resumes a sandbox only when the test allows it."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.resumed: list[NoopSandbox] = []

    def resume(self, directory: Path, names: Mapping[str, Any] | None) -> NoopSandbox:
        self.begun.set()
        assert self.go_on.wait(60)
        self.resumed.append(NoopSandbox())
        return self.resumed[-1]


def test_a_sandbox_killed_while_it_resumes_is_gone(tmp_path: Path) -> None:
    async def run(store: Store) -> None:
        fleet = WaitingFleet()
        own = Sandboxes(fleet, store, tmp_path, Metrics())
        await own.open()
        sandbox = await own.create(store.new_key("k")[0], {"templateID": "base"}, 600)
        await own.pause(sandbox)
        resuming = asyncio.create_task(own.resume(sandbox, 600))
        assert await asyncio.to_thread(fleet.begun.wait, 60)
        killing = asyncio.create_task(own.kill(sandbox))
        await asyncio.sleep(0)  # the kill waits for the lock
        fleet.go_on.set()
        await resuming
        await killing
        assert sandbox.id not in own.by_id
        assert [resumed.alive() for resumed in fleet.resumed] == [False]
        with pytest.raises(ApiError, match="not"):
            await own.resume(sandbox, 600)
        await own.close()

    store = Store(tmp_path / "state.sqlite")
    try:
        asyncio.run(run(store))
    finally:
        store.close()

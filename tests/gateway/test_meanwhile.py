"""What comes while a sandbox resumes, which is held there until it has come."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.gateway.errors import ApiError
from harness.gateway.fleets.noop import NoopFleet, NoopLive
from harness.gateway.metrics import Meter
from harness.gateway.sandboxes.service import Sandboxes
from harness.gateway.sandboxes.store import Store


class Held(NoopFleet):
    """One that resumes a sandbox when it is let."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.made: list[NoopLive] = []

    def resume(self, folder: Path, same: Mapping[str, Any] | None) -> NoopLive:
        self.begun.set()
        assert self.go_on.wait(60)
        self.made.append(NoopLive())
        return self.made[-1]


def test_one_killed_while_it_resumes_is_gone(tmp_path: Path) -> None:
    async def live(store: Store) -> None:
        fleet = Held()
        own = Sandboxes(fleet, store, tmp_path, Meter())
        await own.open()
        entry = await own.create(store.new_key("k")[0], {"templateID": "base"}, 600)
        await own.pause(entry)
        resuming = asyncio.create_task(own.resume(entry, 600))
        assert await asyncio.to_thread(fleet.begun.wait, 60)
        killing = asyncio.create_task(own.kill(entry))
        await asyncio.sleep(0)  # it has been asked for
        fleet.go_on.set()
        await resuming
        await killing
        assert entry.id not in own.entries
        assert [one.alive() for one in fleet.made] == [False]
        with pytest.raises(ApiError, match="not"):
            await own.resume(entry, 600)
        await own.close()

    store = Store(tmp_path / "state.sqlite")
    try:
        asyncio.run(live(store))
    finally:
        store.close()

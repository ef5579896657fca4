"""The host's wall clock jumps: sandboxes end when their time has passed, not sooner, not later."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.gateway.fleets.noop import NoopFleet, NoopLive
from harness.gateway.metrics import Meter
from harness.gateway.sandboxes import entries, service
from harness.gateway.sandboxes.service import Sandboxes
from harness.gateway.sandboxes.store import Store

YEAR_S = 365 * 86400.0


async def _ends(own: Sandboxes, id: str, begun: float, lifetime_s: float) -> None:
    """It ends, and not before its time, by a clock that nobody sets."""
    while id in own.entries:
        assert time.monotonic() - begun < lifetime_s + 60, "it is kept"
        await asyncio.sleep(0.02)
    assert time.monotonic() - begun >= lifetime_s - 0.05, "it ended too soon"


class Remembering(NoopFleet):
    """One whose sandboxes outlive their gateway."""

    def adopt(self, about: Mapping[str, Any]) -> NoopLive:
        return NoopLive()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    one = Store(tmp_path / "state.sqlite")
    yield one
    one.close()


class Clock:
    def __init__(self) -> None:
        self.ahead = 0.0
        self._true = time.time

    def time(self) -> float:
        return self._true() + self.ahead


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    one = Clock()
    for module in (entries, service):
        monkeypatch.setattr(module.time, "time", one.time)
    return one


@pytest.mark.parametrize("jump", [YEAR_S, -YEAR_S])
def test_a_jump_neither_ends_a_sandbox_nor_keeps_it(
    tmp_path: Path, store: Store, clock: Clock, jump: float
) -> None:
    async def live() -> None:
        key, _ = store.new_key("k")
        own = Sandboxes(Remembering(), store, tmp_path, Meter())
        await own.open()
        begun = time.monotonic()
        entry = await own.create(key, {"templateID": "base"}, 1.0)
        clock.ahead = jump
        assert -60 < entry.ends - time.time() <= 1  # as who asks for it is told
        await _ends(own, entry.id, begun, 1.0)
        await own.close()

    asyncio.run(live())


@pytest.mark.parametrize("jump", [YEAR_S, -YEAR_S])
def test_nor_does_one_while_there_is_no_gateway(
    tmp_path: Path, store: Store, clock: Clock, jump: float
) -> None:
    async def live() -> None:
        key, _ = store.new_key("k")
        former = Sandboxes(Remembering(), store, tmp_path, Meter())
        await former.open()
        begun = time.monotonic()
        entry = await former.create(key, {"templateID": "base"}, 2.0)
        entry.record.pid = 1
        store.put(entry.record)
        clock.ahead = jump
        own = Sandboxes(Remembering(), store, tmp_path, Meter())
        await own.open()
        await _ends(own, entry.id, begun, 2.0)
        await own.close()
        await former.close()

    asyncio.run(live())

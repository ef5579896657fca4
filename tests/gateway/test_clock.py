"""When the host's wall clock jumps, sandboxes still end when their time has passed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.gateway.fleets.noop import NoopFleet, NoopSandbox
from harness.gateway.metrics import Metrics
from harness.gateway.sandboxes import sandbox, service
from harness.gateway.sandboxes.service import Sandboxes
from harness.gateway.sandboxes.store import Store

YEAR_S = 365 * 86400.0


async def _assert_ends(own: Sandboxes, id: str, begun: float, lifetime_s: float) -> None:
    """It ends, and not before its time, by the monotonic clock."""
    while id in own.by_id:
        assert time.monotonic() - begun < lifetime_s + 60, "it did not end"
        await asyncio.sleep(0.02)
    assert time.monotonic() - begun >= lifetime_s - 0.05, "it ended too early"


class AdoptingFleet(NoopFleet):
    """A fleet whose sandboxes outlive their gateway."""

    def adopt(self, about: Mapping[str, Any]) -> NoopSandbox:
        return NoopSandbox()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "state.sqlite")
    yield opened
    opened.close()


class Clock:
    def __init__(self) -> None:
        self.ahead = 0.0
        self._real = time.time

    def time(self) -> float:
        return self._real() + self.ahead


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake = Clock()
    for module in (sandbox, service):
        monkeypatch.setattr(module.time, "time", fake.time)
    return fake


@pytest.mark.parametrize("jump", [YEAR_S, -YEAR_S])
def test_a_jump_of_the_clock_changes_no_time_limit(
    tmp_path: Path, store: Store, clock: Clock, jump: float
) -> None:
    async def run() -> None:
        key, _ = store.new_key("k")
        own = Sandboxes(AdoptingFleet(), store, tmp_path, Metrics())
        await own.open()
        begun = time.monotonic()
        entry = await own.create(key, {"templateID": "base"}, 1.0)
        clock.ahead = jump
        assert -60 < entry.end_time - time.time() <= 1  # what the API shows
        await _assert_ends(own, entry.id, begun, 1.0)
        await own.close()

    asyncio.run(run())


@pytest.mark.parametrize("jump", [YEAR_S, -YEAR_S])
def test_nor_does_a_jump_while_no_gateway_runs(
    tmp_path: Path, store: Store, clock: Clock, jump: float
) -> None:
    async def run() -> None:
        key, _ = store.new_key("k")
        former = Sandboxes(AdoptingFleet(), store, tmp_path, Metrics())
        await former.open()
        begun = time.monotonic()
        entry = await former.create(key, {"templateID": "base"}, 2.0)
        entry.stored.pid = 1
        store.put(entry.stored)
        clock.ahead = jump
        own = Sandboxes(AdoptingFleet(), store, tmp_path, Metrics())
        await own.open()
        await _assert_ends(own, entry.id, begun, 2.0)
        await own.close()
        await former.close()

    asyncio.run(run())

"""What the gateway answers when more sandboxes are asked for than it can make."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest

from harness.errors import Overloaded
from harness.gateway.errors import as_http
from harness.gateway.fleets.container_fleet import ContainerFleet
from harness.gateway.fleets.microvm_fleet import MicroVmFleet
from harness.gateway.fleets.noop import NoopFleet, NoopSandbox
from harness.gateway.metrics import Metrics
from harness.gateway.sandboxes import admission, forks
from harness.gateway.sandboxes.service import Sandboxes
from harness.gateway.sandboxes.store import FILE, Key, opened

BASE = {"templateID": "base"}


class Full(NoopFleet):
    """Its pool would make callers wait too long."""

    async def take(self, template: str, key_id: str, timeout_s: float) -> NoopSandbox:
        raise Overloaded("9 callers wait for a sandbox", retry_after_s=2.4)


def refused(
    directory: Path, fleet: NoopFleet, ask: Callable[[Sandboxes, Key], Awaitable[object]]
) -> tuple[Overloaded, str]:
    """The refusal, and the metrics afterwards."""

    async def run() -> tuple[Overloaded, str]:
        with opened(directory / FILE) as store:
            sandboxes = Sandboxes(fleet, store, directory, Metrics())
            key, _ = store.new_key("own")
            with pytest.raises(Overloaded) as raised:
                await ask(sandboxes, key)
            assert sandboxes.admission.waiting == 0
            await sandboxes.close()
            return raised.value, sandboxes.metrics.text({})

    return asyncio.run(run())


async def create(sandboxes: Sandboxes, key: Key) -> None:
    await sandboxes.create(key, BASE, 60)


async def fork(sandboxes: Sandboxes, key: Key) -> None:
    source = await sandboxes.create(key, BASE, 60)
    admission.WAITING_MAX = 0
    await forks.fork(sandboxes, key, source, 2, 60)


def test_a_full_pool_is_told_to_the_caller_and_counted(tmp_path: Path) -> None:
    refusal, metrics = refused(tmp_path, Full(), create)
    answer = as_http(refusal)
    assert answer.status == 429
    assert answer.headers() == {"Should-Retry": "true", "Retry-After": "3"}
    assert 'coppice_sandbox_events_total{event="refused"} 1' in metrics


@pytest.mark.parametrize("ask", [create, fork])
def test_too_many_creations_in_progress_are_refused_for_the_moment(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ask: Callable[[Sandboxes, Key], Awaitable[object]],
) -> None:
    monkeypatch.setattr(admission, "WAITING_MAX", 0 if ask is create else 1)
    refusal, metrics = refused(tmp_path, NoopFleet(), ask)
    answer = as_http(refusal)
    assert answer.status == 429
    assert answer.headers() == {"Should-Retry": "true", "Retry-After": "1"}
    assert 'coppice_sandbox_events_total{event="refused"} 1' in metrics


def test_fleets_are_told_whose_sandbox_it_is(tmp_path: Path) -> None:
    """So that keys take turns."""
    told: list[str] = []

    class Told(NoopFleet):
        async def take(self, template: str, key_id: str, timeout_s: float) -> NoopSandbox:
            told.append(key_id)
            return NoopSandbox()

    async def run() -> list[str]:
        with opened(tmp_path / FILE) as store:
            sandboxes = Sandboxes(Told(), store, tmp_path, Metrics())
            keys = [store.new_key(name)[0] for name in ("first", "second")]
            for key in keys:
                await create(sandboxes, key)
            await sandboxes.close()
            return [key.id for key in keys]

    assert asyncio.run(run()) == told and len(set(told)) == 2


@pytest.mark.parametrize(("kind", "pools"), [(ContainerFleet, "_queues"), (MicroVmFleet, "_pools")])
def test_pools_are_told_whose_sandbox_it_is(kind: type[Any], pools: str) -> None:
    class Full:
        async def take(self, key_id: str, timeout_s: float) -> NoopSandbox:
            raise Overloaded(f"{key_id}, {timeout_s:.0f} s", retry_after_s=1)

    fleet = object.__new__(kind)
    setattr(fleet, pools, {"base": Full()})
    with pytest.raises(Overloaded, match="the key, 60 s"):
        asyncio.run(cast(Any, fleet).take("base", "the key", 60.0))

"""Forks: running copies of a running sandbox."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Sequence

from harness.gateway import stages
from harness.gateway.errors import ApiError, as_http
from harness.gateway.sandboxes.sandbox import Sandbox
from harness.gateway.sandboxes.service import Sandboxes, new_id
from harness.gateway.sandboxes.store import Key
from harness.gateway.stages import reached


async def fork(
    sandboxes: Sandboxes, key: Key, source: Sandbox, count: int, timeout_s: float
) -> Sequence[Sandbox | ApiError]:
    """Copies of a running sandbox; an error stands for each copy that could not be made."""
    with sandboxes.admitted(key, count):
        return await sandboxes.workers.to_its_end(_fork(sandboxes, key, source, count, timeout_s))


async def _fork(
    sandboxes: Sandboxes, key: Key, source: Sandbox, count: int, timeout_s: float
) -> Sequence[Sandbox | ApiError]:
    with sandboxes.saved.new("fork") as directory:
        async with source.lock:
            sandboxes.require_known(source)
            if not source.running:
                raise ApiError(409, f"sandbox {source.id!r} is paused")
            sandboxes.fleet.require_room(count)
            async with sandboxes.stopped_and_saved(source, directory):
                pass

        async def copy() -> Sandbox:
            running = await sandboxes.workers.made(
                key.id, lambda: sandboxes.fleet.resume(directory, None)
            )
            reached(stages.RESTORED)
            stored = dataclasses.replace(
                source.stored, id=new_id(), key_id=key.id, state="running", started=time.time(),
                ends=time.time() + timeout_s, timeout_s=timeout_s, identity={}, pid=0, born=0,
                came_from="", saved="", saving="", held=False,
            )  # fmt: skip
            return await sandboxes.add(stored, running)

        results = await asyncio.gather(*(copy() for _ in range(count)), return_exceptions=True)
    sandboxes.workers.spawn(sandboxes.remove_unneeded())
    copies: list[Sandbox | ApiError] = []
    for result in results:
        if isinstance(result, Sandbox):
            copies.append(result)
        elif isinstance(result, Exception):
            copies.append(as_http(result))
        else:
            raise result
    source.log("sandbox forked", count=count)
    return copies

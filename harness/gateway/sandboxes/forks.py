"""Forks: running copies of a running sandbox."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from harness.gateway.errors import ApiError, as_http
from harness.gateway.sandboxes.sandbox import Sandbox
from harness.gateway.sandboxes.service import Sandboxes, new_id
from harness.gateway.sandboxes.store import Key, StoredSandbox


async def fork(
    sandboxes: Sandboxes, key: Key, source: Sandbox, count: int, timeout_s: float
) -> Sequence[Sandbox | ApiError]:
    """Copies of a running sandbox; an error stands for each copy that could not be made."""
    fleet, in_thread = sandboxes.fleet, sandboxes.in_thread
    with (
        sandboxes.admission.creating(key, sandboxes.running_of(key), count),
        sandboxes.saved.new("fork") as directory,
    ):
        async with source.lock:
            sandboxes.require_known(source)
            if not (running := source.running):
                raise ApiError(409, f"sandbox {source.id!r} is paused")
            fleet.require_room(count)
            await in_thread(lambda: fleet.save(running, directory, False), saver=True)

        async def copy() -> Sandbox:
            running = await in_thread(lambda: fleet.resume(directory, None), saver=True)
            old = source.stored
            stored = StoredSandbox(
                new_id(), key.id, old.template, "running", time.time(),
                time.time() + timeout_s, metadata=dict(old.metadata),
                environment=dict(old.environment), network=dict(old.network),
                auto_pause=old.auto_pause, auto_resume=old.auto_resume, secure=old.secure,
                timeout_s=timeout_s,
            )  # fmt: skip
            return await sandboxes.add(stored, running)

        results = await asyncio.gather(*(copy() for _ in range(count)), return_exceptions=True)
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

"""Idempotency keys: a repeated request to create a sandbox returns the sandbox that exists."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any

from harness.gateway.errors import ApiError
from harness.gateway.sandboxes.sandbox import Sandbox
from harness.gateway.sandboxes.service import Sandboxes
from harness.gateway.sandboxes.store import Key

HEADER = "idempotency-key"
_VALID = re.compile(r"[a-z0-9-]{1,255}")


def require_valid(key: str) -> None:
    if not _VALID.fullmatch(key):
        raise ApiError(
            400, "Idempotency-Key must be 1 to 255 lowercase letters, digits and hyphens"
        )


def mark(key: str, body: Mapping[str, Any]) -> str:
    """What is stored of a request, with the sandbox that it created."""
    return f"{key} {hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()}"


class Repetitions:
    """Requests with the same key take turns, so that only one of them creates a sandbox."""

    def __init__(self, sandboxes: Sandboxes) -> None:
        self._sandboxes = sandboxes
        self._turns: dict[tuple[str, str], tuple[asyncio.Lock, int]] = {}

    @contextlib.asynccontextmanager
    async def turn(self, owner: Key, key: str) -> AsyncIterator[None]:
        place = owner.id, key
        lock, users = self._turns.get(place, (asyncio.Lock(), 0))
        self._turns[place] = lock, users + 1
        try:
            async with lock:
                yield
        finally:
            lock, users = self._turns[place]
            if users == 1:
                del self._turns[place]
            else:
                self._turns[place] = lock, users - 1

    def created(self, owner: Key, marked: str) -> Sandbox | None:
        """The sandbox that an equal request created. ApiError 409 if one with another body did."""
        start = marked.partition(" ")[0] + " "
        for sandbox in self._sandboxes.by_id.values():
            stored = sandbox.stored
            if stored.key_id == owner.id and stored.created_by.startswith(start):
                if stored.created_by == marked:
                    return sandbox
                raise ApiError(409, "this Idempotency-Key was used with another request body")
        return None

"""How many sandboxes a key may create at once, and how many creations may wait."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from harness.errors import Overloaded
from harness.gateway.errors import ApiError
from harness.gateway.sandboxes.store import Key

WAITING_MAX = 1000
"""Creations in progress; further ones are refused for the moment."""
RETRY_S = 1.0


class Admission:
    """Counts creations in progress, which the limits of a key include."""

    def __init__(self, memory_mib: int) -> None:
        self._memory_mib = memory_mib
        self._pending: dict[str, int] = {}

    @property
    def waiting(self) -> int:
        """Creations in progress."""
        return sum(self._pending.values())

    @contextlib.contextmanager
    def creating(self, key: Key, running: int, count: int = 1) -> Iterator[None]:
        """The creation of `count` sandboxes for a key that has `running` ones.

        Raises ApiError 429 above the key's limits, and Overloaded when too many creations wait.
        """
        total = running + self._pending.get(key.id, 0) + count
        limits = key.limits
        if total > limits.sandboxes:
            raise ApiError(429, f"this key may have {limits.sandboxes} sandboxes at once")
        if total * self._memory_mib > limits.memory_mib:
            raise ApiError(429, f"this key may have {limits.memory_mib} MiB of memory at once")
        if self.waiting >= WAITING_MAX:
            raise Overloaded(
                f"{self.waiting} sandboxes are being created; try again in a moment",
                retry_after_s=RETRY_S,
            )
        self._pending[key.id] = self._pending.get(key.id, 0) + count
        try:
            yield
        finally:
            self._pending[key.id] -= count

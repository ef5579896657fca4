"""How much of what a guest sends the gateway keeps for callers that have not read it yet.

A process is paused when a caller falls behind, so a guest that keeps to the protocol stays far
below these limits. One that does not loses its channel.
"""

from __future__ import annotations

from harness.errors import AnswerTooLong

QUEUE_MAX = 24 << 20
"""Bytes queued for all callers of a sandbox at which its channel is ended."""
QUEUE_HIGH = 4 << 20
"""Bytes queued for all callers of a sandbox at which each process with output is paused."""
ANSWER_MAX = 16 << 20
"""Bytes of the entries of one answer."""
WRITE_MAX = 4 << 20
"""Bytes written to a guest that it has not read, at which its channel is ended. Requests wait at a
quarter of it."""
NOISE_MAX = 256 << 10
"""Bytes between frames. A successor of a gateway begins in the middle of a frame, once."""
ITEM_BYTES = 256
"""Memory that an item takes beside its data, however short that is."""
PROCESSES_MAX, CONNECTIONS_MAX, WATCHES_MAX = 512, 256, 64
"""At once in a sandbox. envd itself allows 256 processes, 128 connections and 64 watches."""


class Budget:
    """Bytes in use, of at most `limit`."""

    def __init__(self, limit: int, what: str) -> None:
        self.used = 0
        self._limit = limit
        self._what = what

    def take(self, count: int) -> None:
        """AnswerTooLong when the limit is passed; the bytes are counted in any case."""
        self.used += count
        if self.used > self._limit:
            raise AnswerTooLong(f"{self._what} exceeds {self._limit >> 20} MiB")

    def give(self, count: int) -> None:
        self.used -= count

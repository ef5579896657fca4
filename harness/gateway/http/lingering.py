"""The rest of a request whose response has been sent: read and dropped, within bounds.

A connection that is closed while data of the client are unread is reset, and the client, which may
still be sending, loses the response. So the end of a connection waits for the client's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Bounds:
    """How much may still arrive, in what time, and how long nothing may."""

    most: int
    total_s: float
    idle_s: float


class Linger:
    """Calls `end` once a bound is passed."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, bounds: Bounds, end: Callable[[], object]
    ) -> None:
        self._loop = loop
        self._bounds = bounds
        self._end = end
        self._bytes = 0
        self._begun = self._last = loop.time()
        self._timer = loop.call_at(self._next(), self._check)

    def arrived(self, count: int) -> None:
        self._last = self._loop.time()
        self._bytes += count
        if self._bytes > self._bounds.most:
            self.cancel()
            self._end()

    def cancel(self) -> None:
        self._timer.cancel()

    def _next(self) -> float:
        return min(self._begun + self._bounds.total_s, self._last + self._bounds.idle_s)

    def _check(self) -> None:
        if self._loop.time() >= self._next():
            self._end()
        else:
            self._timer = self._loop.call_at(self._next(), self._check)


class EndsWhenRead:
    """The transport of a response: its end closes the connection once the request has been read.

    `flush` writes what of the response is not written yet.
    """

    def __init__(
        self, transport: asyncio.Transport, flush: Callable[[], None], end: Callable[[], None]
    ) -> None:
        self.write = transport.write
        self.is_closing = transport.is_closing
        self._flush = flush
        self._end = end

    def close(self) -> None:
        self._flush()
        self._end()

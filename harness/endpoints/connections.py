"""The connections of a client: kept open, by the place to which they go."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from harness.endpoints.address import Origin
from harness.endpoints.http_connection import HttpConnection, connected, resolved

if TYPE_CHECKING:
    import ssl

CONNECT_S = 15.0
IDLE_S = 4.0
"""A connection that has been idle for longer is not used again: many servers close theirs after
five seconds, and a request that meets the end is lost."""
RESOLVED_S = 60.0


class Connections:
    """`tls` makes the context of connections with TLS, when the first is opened."""

    def __init__(self, tls: Callable[[], ssl.SSLContext]) -> None:
        self._tls = tls
        self._context: ssl.SSLContext | None = None
        self._idle: defaultdict[Origin, list[HttpConnection]] = defaultdict(list)
        self._open: set[HttpConnection] = set()
        self.tls_of: dict[Origin, str] = {}
        """The version and cipher of the first connection with TLS to each place."""
        self._addresses: dict[Origin, tuple[float, list[tuple[Any, ...]]]] = {}

    def idle(self, origin: Origin) -> HttpConnection | None:
        """A connection that is open already; the one that was used last, of several."""
        kept = self._idle[origin]
        oldest = time.monotonic() - IDLE_S
        while kept:
            connection = kept.pop()
            if connection.usable and connection.idle_since > oldest:
                return connection
            self._drop(connection)
        return None

    async def opened(self, origin: Origin) -> HttpConnection:
        """A new connection. Raises EndpointUnreachable."""
        if origin.tls and self._context is None:
            self._context = self._tls()
        context = self._context if origin.tls else None
        at, addresses = self._addresses.get(origin, (0.0, []))
        if not addresses or time.monotonic() - at > RESOLVED_S:
            addresses = await resolved(origin)
            self._addresses[origin] = time.monotonic(), addresses
        connection = await connected(origin, addresses, context, CONNECT_S)
        self._open.add(connection)
        if origin.tls and origin not in self.tls_of:
            self.tls_of[origin] = connection.tls
        return connection

    def give_back(self, connection: HttpConnection) -> None:
        """Keep a connection whose request has ended."""
        if connection.usable:
            connection.idle_since = time.monotonic()
            self._idle[connection.origin].append(connection)
        else:
            self._drop(connection)

    async def warm(self, origin: Origin, count: int) -> None:
        """Have this many connections open and idle, so that no request waits for one."""
        fresh = time.monotonic() - IDLE_S / 2
        kept = [one for one in self._idle[origin] if one.usable and one.idle_since > fresh]
        for connection in self._idle[origin]:
            if connection not in kept:
                self._drop(connection)
        self._idle[origin] = kept
        for _ in range(count - len(kept)):
            self.give_back(await self.opened(origin))

    def forget(self, origin: Origin) -> None:
        """Close the connections to a place that is not used again."""
        for connection in self._idle.pop(origin, ()):
            self._drop(connection)
        self._addresses.pop(origin, None)

    def close(self) -> None:
        for connection in list(self._open):
            self._drop(connection)
        self._idle.clear()

    @property
    def count(self) -> int:
        """The connections that are open."""
        return len(self._open)

    def _drop(self, connection: HttpConnection) -> None:
        connection.close()
        self._open.discard(connection)

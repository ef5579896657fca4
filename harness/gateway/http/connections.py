"""Connections: accepted up to the limits, refused beyond them."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from typing import Any

from harness.gateway.client_network import client_network
from harness.gateway.errors import ApiError
from harness.gateway.http.limits import HANDSHAKE_S, LINGER_S, ConnectionLimits
from harness.gateway.http.refusal import refusal

BATCH = 64
"""Connections accepted before others get their turn."""
PAUSE_S = 0.5
"""Without a free descriptor, until the next attempt to accept."""
log = logging.getLogger("coppice.gateway")


class Lease:
    """A connection's place among those of its address; safe to release twice."""

    def __init__(self, leases: Leases, address: str) -> None:
        self._leases: Leases | None = leases
        self._address = address

    def release(self) -> None:
        if leases := self._leases:
            self._leases = None
            leases.by_address[self._address] -= 1
            if not leases.by_address[self._address]:
                del leases.by_address[self._address]
            leases.total -= 1


class Leases:
    """The open connections."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self._limits = limits
        self.total = 0
        self.by_address: Counter[str] = Counter()

    def take(self, address: str) -> Lease:
        """Raises ApiError 429 or 503 beyond the limits."""
        if self.by_address[address] >= self._limits.per_address:
            raise ApiError(
                429, f"this address has {self._limits.per_address} connections open; use those",
                retry=True, retry_after=1,
            )  # fmt: skip
        if self.total >= self._limits.total:
            raise ApiError(
                503, "the gateway has too many connections open", retry=True, retry_after=1
            )
        self.total += 1
        self.by_address[address] += 1
        return Lease(self, address)


class Acceptor:
    """Accepts the connections of a listening socket, for uvicorn in place of asyncio's server.

    It sees a connection before its TLS handshake, so unfinished handshakes count too.
    """

    def __init__(
        self,
        listener: socket.socket,
        leases: Leases,
        new_protocol: Callable[[Lease], asyncio.Protocol],
        tls: ssl.SSLContext | None,
    ) -> None:
        self._listener = listener
        self._leases = leases
        self._new_protocol = new_protocol
        self._options: dict[str, Any] = {}
        if tls:
            self._options = {
                "ssl": tls, "ssl_handshake_timeout": HANDSHAKE_S, "ssl_shutdown_timeout": LINGER_S,
            }  # fmt: skip
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self._resume()

    def _resume(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        for _ in range(BATCH):
            try:
                connection, peer = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    raise
                log.error("no connection can be accepted", extra={"fields": {"why": str(error)}})
                self._loop.remove_reader(self._listener)
                self._loop.call_later(PAUSE_S, self._resume)
                return
            connection.setblocking(False)
            try:
                lease = self._leases.take(client_network(str(peer[0])))
            except ApiError as error:
                self._refuse(connection, error)
                continue
            task = self._loop.create_task(self._serve(connection, lease))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _refuse(self, connection: socket.socket, error: ApiError) -> None:
        with connection:
            if not self._options:  # a client that expects TLS could not read it
                try:
                    connection.send(refusal(error))
                    connection.shutdown(socket.SHUT_WR)
                    connection.recv(1 << 16)  # unread bytes would reset the connection
                except OSError:
                    return

    async def _serve(self, connection: socket.socket, lease: Lease) -> None:
        protocol = self._new_protocol(lease)
        try:
            await self._loop.connect_accepted_socket(lambda: protocol, connection, **self._options)
        except (OSError, TimeoutError):  # the client left, or the handshake failed
            connection.close()
            lease.release()

    # What uvicorn expects of a server.

    def close(self) -> None:
        self._closed = True
        self._loop.remove_reader(self._listener)
        self._listener.close()
        for task in self._tasks:
            task.cancel()

    async def wait_closed(self) -> None:
        await asyncio.gather(*self._tasks, return_exceptions=True)

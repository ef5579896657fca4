"""WebSockets to servers that run in a sandbox: after the request, bytes in both directions.

The HTTP server hands a connection over when its request asks for an upgrade. The bytes after that
are not interpreted, so any extension that the two ends negotiate works.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from harness.errors import CoppiceError
from harness.gateway.data_plane.port_proxy import GATEWAY_HEADERS, Headers, request_head
from harness.gateway.envd.connections import ServerConnection
from harness.gateway.envd.process import Listener
from harness.gateway.errors import ApiError, as_http
from harness.gateway.http.connections import Lease
from harness.gateway.http.refusal import refusal

BUFFER_MAX = 1 << 18
"""Bytes buffered for the sandbox's server before the client's connection is paused."""
Connect = Callable[[str, Headers, str], Awaitable[tuple[ServerConnection, Listener]]]
"""Connects to the server that a request names, by its path, headers and the client's address;
raises ApiError and CoppiceError."""


class WebSocketProxy(asyncio.Protocol):
    """A client's connection, from its request for an upgrade on."""

    def __init__(self, connect: Connect, open_connections: set[Any], lease: Lease) -> None:
        self._connect = connect
        self._open_connections = open_connections
        self._lease = lease
        self._transport: Any = None
        self._buffer = bytearray()
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._ended = False
        self._task: asyncio.Task[None] | None = None

    def take_over(
        self, transport: Any, method: str, target: bytes, headers: Headers, data: bytes
    ) -> None:
        """Go on after a request; `data` is what has arrived behind it."""
        self._transport = transport
        self._open_connections.add(self)
        self._task = asyncio.get_running_loop().create_task(self._serve(method, target, headers))
        transport.resume_reading()
        if data:
            self.data_received(data)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._readable.set()
        if len(self._buffer) > BUFFER_MAX:
            self._transport.pause_reading()

    def eof_received(self) -> None:
        """The transport then closes itself."""

    def connection_lost(self, error: Exception | None) -> None:
        self._ended = True
        self._lease.release()
        self._open_connections.discard(self)
        self._readable.set()
        self._writable.set()
        if self._task:
            self._task.cancel()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def shutdown(self) -> None:
        """Called by uvicorn when the gateway stops."""
        self._transport.close()

    def abort(self) -> None:
        """End it as if the client had left."""
        self._transport.abort()

    async def _serve(self, method: str, target: bytes, headers: Headers) -> None:
        path = target.partition(b"?")[0].decode("latin-1")
        peer = self._transport.get_extra_info("peername")
        try:
            connection, listener = await self._connect(path, headers, str(peer[0]) if peer else "")
        except (ApiError, CoppiceError, TimeoutError) as error:
            with contextlib.suppress(OSError):
                self._transport.write(refusal(as_http(error)))
            self._transport.close()
            return
        kept = [header for header in headers if header[0] not in GATEWAY_HEADERS]
        head = request_head(method, target, kept)
        forward = asyncio.ensure_future(self._forward(connection, head))
        back = asyncio.ensure_future(self._return(listener))
        try:
            await asyncio.wait({forward, back}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            listener.close()
            connection.drop()
            for task in (forward, back):
                task.cancel()
            await asyncio.gather(forward, back, return_exceptions=True)
            self._transport.close()

    async def _forward(self, connection: ServerConnection, head: bytes) -> None:
        await connection.write(head)
        while not self._ended:
            data = bytes(self._buffer)
            self._buffer.clear()
            self._readable.clear()
            self._transport.resume_reading()
            if data:
                await connection.write(data)
            else:
                await self._readable.wait()

    async def _return(self, listener: Listener) -> None:
        while (event := await listener.get()).kind != "exit":
            self._transport.write(event.data)
            await self._writable.wait()

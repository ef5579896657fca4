"""WebSockets to servers that run in a sandbox: after the request, bytes in both directions.

uvicorn hands a connection over when its request asks for an upgrade. The bytes after that are not
interpreted, so any extension that the two ends negotiate works.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from typing import Any

from harness.errors import CoppiceError
from harness.gateway.data_plane.port_proxy import GATEWAY_HEADERS, Headers, request_head
from harness.gateway.envd.connections import ServerConnection
from harness.gateway.envd.process import Listener
from harness.gateway.errors import ApiError, as_http

BUFFER_MAX = 1 << 18
"""Bytes buffered for the sandbox's server before the client's connection is paused."""
HEAD_MAX = 1 << 16
Connect = Callable[[str, Headers, str], Awaitable[tuple[ServerConnection, Listener]]]
"""Connects to the server that a request names, by its path, headers and the client's address;
raises ApiError and CoppiceError."""


class WebSocketProxy(asyncio.Protocol):
    """A client's connection; created by uvicorn."""

    def __init__(self, connect: Connect, server_state: Any) -> None:
        self._connect = connect
        self._open_connections = server_state.connections
        self._transport: Any = None
        self._address = ""
        self._buffer = bytearray()
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._ended = False
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        peer = transport.get_extra_info("peername")
        self._address = str(peer[0]) if peer else ""
        self._open_connections.add(self)
        self._task = asyncio.get_running_loop().create_task(self._serve())

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._readable.set()
        if len(self._buffer) > BUFFER_MAX:
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        self.connection_lost(None)
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._ended = True
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

    async def _serve(self) -> None:
        try:
            method, target, headers = await self._request()
            path = target.partition(b"?")[0].decode("latin-1")
            connection, listener = await self._connect(path, headers, self._address)
        except (ApiError, CoppiceError, TimeoutError) as error:
            self._refuse(as_http(error))
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

    async def _request(self) -> tuple[str, bytes, Headers]:
        """The request, which uvicorn has parsed and written again: it is well-formed."""
        while b"\r\n\r\n" not in self._buffer and len(self._buffer) < HEAD_MAX:
            self._readable.clear()
            await self._readable.wait()
        head, _, rest = bytes(self._buffer).partition(b"\r\n\r\n")
        self._buffer[:] = rest
        first, *lines = head.split(b"\r\n")
        method, target, _ = first.split(b" ", 2)
        headers = [line.split(b": ", 1) for line in lines]
        return method.decode(), target, [(name.lower(), value) for name, value in headers]

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
        while (event := await listener.get()) and event.kind != "exit":
            self._transport.write(event.data)
            await self._writable.wait()

    def _refuse(self, error: ApiError) -> None:
        body = json.dumps(error.body()).encode()
        lines = (
            f"HTTP/1.1 {error.status} Refused\r\ncontent-type: application/json\r\n"
            + "".join(f"{name.lower()}: {value}\r\n" for name, value in error.headers().items())
            + f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        with contextlib.suppress(OSError):
            self._transport.write(lines.encode() + body)
        self._transport.close()

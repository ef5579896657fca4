"""WebSockets to servers that run in a sandbox: after the request, bytes each way.

The web server hands a connection over when its request asks to become a WebSocket. Nothing of what
follows is read here, so whatever the two ends agree on works.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from typing import Any

from harness.errors import CoppiceError
from harness.gateway.data_plane.port_proxy import OURS, Headers, head
from harness.gateway.envd.client import Listener
from harness.gateway.envd.connections import Link
from harness.gateway.errors import ApiError, as_http

AHEAD = 1 << 18
"""Bytes that wait for the sandbox's server before the client is told to wait."""
HEAD_MAX = 1 << 16
Opened = tuple[Link, Listener]
Open = Callable[[Headers], Awaitable[Opened]]
"""The connection that a request's headers ask for; raises ApiError and CoppiceError."""


class Tunnel(asyncio.Protocol):
    """One connection; made by uvicorn, with `opener` given beforehand."""

    def __init__(self, opener: Open, server_state: Any) -> None:
        self._opener = opener
        self._connections = server_state.connections
        self._transport: Any = None
        self._room = bytearray()
        self._there: asyncio.Event = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._ended = False
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._connections.add(self)
        self._task = asyncio.get_running_loop().create_task(self._serve())

    def data_received(self, data: bytes) -> None:
        self._room += data
        self._there.set()
        if len(self._room) > AHEAD:
            self._transport.pause_reading()

    def eof_received(self) -> bool:
        self.connection_lost(None)
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._ended = True
        self._connections.discard(self)
        self._there.set()
        self._writable.set()
        if self._task:
            self._task.cancel()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def shutdown(self) -> None:
        """The gateway ends."""
        self._transport.close()

    async def _serve(self) -> None:
        try:
            method, target, headers = await self._request()
            link, listener = await self._opener(headers)
        except (ApiError, CoppiceError, TimeoutError) as error:
            self._refuse(as_http(error))
            return
        kept = [one for one in headers if one[0] not in OURS]
        there = asyncio.ensure_future(self._forward(link, head(method, target, kept)))
        back = asyncio.ensure_future(self._back(listener))
        try:
            await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            listener.close()
            link.drop()
            for task in (there, back):
                task.cancel()
            await asyncio.gather(there, back, return_exceptions=True)
            self._transport.close()

    async def _request(self) -> tuple[str, bytes, Headers]:
        """The web server writes it anew, so it is whole and well-formed."""
        while b"\r\n\r\n" not in self._room and len(self._room) < HEAD_MAX:
            self._there.clear()
            await self._there.wait()
        whole, _, rest = bytes(self._room).partition(b"\r\n\r\n")
        self._room[:] = rest
        first, *lines = whole.split(b"\r\n")
        method, target, _ = first.split(b" ", 2)
        headers = [line.split(b": ", 1) for line in lines]
        return method.decode(), target, [(name.lower(), value) for name, value in headers]

    async def _forward(self, link: Link, first: bytes) -> None:
        await link.send(first)
        while not self._ended:
            data = bytes(self._room)
            self._room.clear()
            self._there.clear()
            self._transport.resume_reading()
            if data:
                await link.send(data)
            else:
                await self._there.wait()

    async def _back(self, listener: Listener) -> None:
        while (said := await listener.get()) and said.what != "exit":
            self._transport.write(said.data)
            await self._writable.wait()

    def _refuse(self, error: ApiError) -> None:
        body = json.dumps(error.body()).encode()
        lines = (
            f"HTTP/1.1 {error.status} Refused\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        with contextlib.suppress(OSError):
            self._transport.write(lines.encode() + body)
        self._transport.close()

"""A request and its response, from the moment the request's headers are complete.

It takes the place of uvicorn's own class and does less for the same: what an application sends
before it next waits is written at once, and each system call counts, since on one host it also runs
the client's side of the connection. A header that has been checked is not checked again.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from starlette.types import Message, Scope
from uvicorn.protocols.http.httptools_impl import (
    HEADER_RE,
    HEADER_VALUE_RE,
    STATUS_LINE,
    RequestResponseCycle,
)

AT_ONCE = 64 << 10
"""Bytes of a response that are written without waiting for more."""
BODILESS = (204, 304)
EXCHANGE = "exchange"
"""In the state of a request's scope."""
T = TypeVar("T")


class Exchange(RequestResponseCycle):
    """Implements ASGI's `receive` and `send`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, **of_the_request: Any) -> None:
        super().__init__(message_event=asyncio.Event(), **of_the_request)
        self._loop = loop
        self._unwritten: list[bytes] = []
        self._unwritten_bytes = 0
        self._writes_soon = False
        self._on_leaving: Callable[[], object] | None = None
        self.scope["state"][EXCHANGE] = self

    # The request.

    @property
    def arrived(self) -> bool:
        """Whether the whole body has arrived, so that nothing is waited for."""
        return not self.more_body

    def take_body(self) -> bytes:
        """The body that has arrived."""
        self.message_event.clear()
        self.flow.resume_reading()
        body, self.body = bytes(self.body), bytearray()
        return body

    def leave(self) -> None:
        """The client has left, or is served no more."""
        self.disconnected = True
        self.message_event.set()
        if self._on_leaving:
            self._on_leaving()

    async def unless_left(self, work: Coroutine[Any, Any, T]) -> tuple[T | None, bool]:
        """Do long work, cancelled if the client leaves; its result, if any, and whether the client
        left. Raises what the work raises."""
        task, left = asyncio.current_task(), False
        assert task

        def leave() -> None:
            nonlocal left
            if self._on_leaving is leave:
                left = True
                task.cancel()

        result = None
        self._on_leaving = leave
        if self.disconnected:
            self._loop.call_soon(leave)
        try:
            result = await work
        except asyncio.CancelledError:
            if not left or task.cancelling() > 1:
                raise  # the gateway ends
        finally:
            self._on_leaving = None
            if left:
                task.uncancel()
        return result, self.disconnected

    # The response.

    async def send(self, message: Message) -> None:  # type: ignore[override]
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        expected = "http.response.body" if self.response_started else "http.response.start"
        if self.response_complete or message["type"] != expected:
            raise RuntimeError(f"the application sent {message['type']} at the wrong time")
        if self.response_started:
            self._send_body(message.get("body", b""), message.get("more_body", False))
        else:
            self._send_head(message["status"], message.get("headers", ()))

    def write(self, data: bytes) -> None:
        """Write a part of the response, with those that follow before the application waits."""
        self._unwritten.append(data)
        self._unwritten_bytes += len(data)
        if self._unwritten_bytes > AT_ONCE:
            self.flush()
        elif not self._writes_soon:
            self._writes_soon = True
            self._loop.call_soon(self._write_now)

    def write_chunk(self, data: bytes) -> None:
        """Write a piece of a body whose length is not known."""
        self.write(b"%x\r\n%b\r\n" % (len(data), data))

    def flush(self) -> None:
        """Write what is not written yet."""
        if self._unwritten:
            data, self._unwritten, self._unwritten_bytes = b"".join(self._unwritten), [], 0
            if not self.disconnected:
                self.transport.write(data)

    def _write_now(self) -> None:
        self._writes_soon = False
        self.flush()

    def _send_head(self, status: int, headers: Any) -> None:
        self.response_started = True
        self.waiting_for_100_continue = False
        head = [STATUS_LINE[status]]
        closes = False
        for header in (*self.default_headers, *headers):
            name, line = _line(*header)
            head.append(line)
            if name == b"content-length" and self.chunked_encoding is None:
                self.expected_content_length = int(header[1])
                self.chunked_encoding = False
            elif name == b"transfer-encoding" and header[1].lower() == b"chunked":
                self.expected_content_length = 0
                self.chunked_encoding = True
            elif name == b"connection" and b"close" in _tokens(header[1]):
                self.keep_alive = False
                closes = True
        if not self.keep_alive and not closes:
            head.append(b"connection: close\r\n")
        if self.chunked_encoding is None and not self._is_bodiless and status not in BODILESS:
            self.chunked_encoding = True
            head.append(b"transfer-encoding: chunked\r\n")
        head.append(b"\r\n")
        self.write(b"".join(head))

    @property
    def _is_bodiless(self) -> bool:
        return self.scope["method"] == "HEAD"

    def _send_body(self, body: bytes, more: bool) -> None:
        if self._is_bodiless:
            self.expected_content_length = 0
        elif self.chunked_encoding:
            if body:
                self.write_chunk(body)
            if not more:
                self.write(b"0\r\n\r\n")
        else:
            self.expected_content_length -= len(body)
            if self.expected_content_length < 0:
                raise RuntimeError("the response is longer than its Content-Length")
            if body:
                self.write(body)
        if not more:
            self._complete()

    def _complete(self) -> None:
        if self.expected_content_length:
            raise RuntimeError("the response is shorter than its Content-Length")
        self.flush()
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()


def exchange_of(scope: Scope) -> Exchange:
    """The exchange that a scope describes."""
    exchange: Exchange = scope["state"][EXCHANGE]
    return exchange


@functools.lru_cache(maxsize=512)
def _line(name: bytes, value: bytes) -> tuple[bytes, bytes]:
    """The name of a header in small letters, and its line. RuntimeError for a malformed one."""
    if HEADER_RE.search(name) or HEADER_VALUE_RE.search(value):
        raise RuntimeError(f"the application sent a malformed header {name!r}")
    name = name.lower()
    return name, b"%b: %b\r\n" % (name, value)


def _tokens(value: bytes) -> list[bytes]:
    return [token.strip().lower() for token in value.split(b",")]

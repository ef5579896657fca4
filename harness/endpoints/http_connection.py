"""One connection that is kept open, written for timing: HTTP/1.1 over an asyncio Protocol.

A response's times are taken when its bytes arrive in this process, before they are parsed. What the
other end sends is not trusted: the sizes of head and body are bounded, and so is the whole exchange
in time.
"""

from __future__ import annotations

import asyncio
import functools
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness import extras
from harness.endpoints.address import Origin
from harness.errors import EndpointFailed, EndpointUnreachable, GuestTimeout

if TYPE_CHECKING:
    import ssl  # not in every Python

HEAD_LIMIT = 64 << 10
"""Bytes of a response's status line and headers."""
BODY_LIMIT = 16 << 20
"""Bytes of a response's body, unless a request states another limit."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request. `head` is its header lines, which hold a key: they are in no text of the object.

    `start` is when the caller asked for it; times of the response are of the same clock.
    """

    method: str
    target: str
    head: str = field(repr=False)
    body: bytes | None = field(repr=False)
    start: float
    timeout_s: float
    limit: int = BODY_LIMIT

    def encoded(self) -> bytes:
        length = "" if self.body is None else f"Content-Length: {len(self.body)}\r\n"
        text = f"{self.method} {self.target} HTTP/1.1\r\n{self.head}{length}\r\n"
        return text.encode("latin-1") + (self.body or b"")


@dataclass(frozen=True, slots=True)
class Response:
    """`start`, `headers_at` and `body_at` are of time.perf_counter: when the caller asked, when the
    headers were complete, and when the body was. The names of `headers` are in lower case."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    start: float
    headers_at: float
    body_at: float


@functools.cache
def _httptools() -> Any:
    """The package with the parser. A host that only runs sandboxes need not have the package."""
    try:
        import httptools
    except ModuleNotFoundError as error:
        raise extras.missing("measuring an endpoint", error) from error
    return httptools


class HttpConnection(asyncio.Protocol):
    """`usable`: whether another request can be sent. One request is under way at a time."""

    def __init__(self, origin: Origin) -> None:
        self.origin = origin
        self.usable = False
        self.idle_since = 0.0
        self._answered = False
        self._transport: Any = None
        self._parser: Any = None
        self._waiting: asyncio.Future[Response] | None = None
        self._call: Call | None = None
        self._reset()

    def _reset(self) -> None:
        self._head_bytes = self._received_bytes = 0
        self._headers: dict[str, str] = {}
        self._headers_at = 0.0
        self._status = 0
        self._keeps_alive = False
        self._parts: list[bytes] = []
        self._size = 0
        self._received = 0.0
        self._done = False

    # asyncio's callbacks.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._parser = _httptools().HttpResponseParser(self)
        self.usable = True

    def data_received(self, data: bytes) -> None:
        self._received = time.perf_counter()
        if self._waiting is None:
            self.close()  # nothing was asked: a broken peer, or a notice that it ends
            return
        if not self._headers_at:
            self._head_bytes += len(data)
        self._received_bytes += len(data)  # trailers, too, which have no end otherwise
        try:
            self._parser.feed_data(data)
        except _httptools().HttpParserUpgrade:
            self._fail("it changed to another protocol, which was not asked for")
        except _httptools().HttpParserError:
            if not self._done:
                self._fail(_not_http(data, self.origin))
        if self._done:
            self._complete()
        elif self._headers_at and self._call and self._received_bytes > self._call.limit:
            self._fail(f"its answer is longer than {self._call.limit >> 10} KiB and goes on")
        elif not self._headers_at and self._head_bytes > HEAD_LIMIT:
            self._fail(f"the headers of its answer are longer than {HEAD_LIMIT >> 10} KiB")

    def connection_lost(self, error: Exception | None) -> None:
        self.usable = False
        if self._waiting is None:
            return
        if not self._headers_at:
            began = "in the middle of the headers" if self._head_bytes else "without an answer"
            if not (self._head_bytes or self._answered or self.origin.tls):
                began += "; if it speaks TLS, its address begins with https://"
            why = f" ({error})" if error and not isinstance(error, ConnectionError) else ""
            self._fail(f"it closed the connection {began}{why}")
        elif self._until_closed() and error is None:
            self._received = time.perf_counter()
            self._complete()
        else:
            self._fail(f"it closed the connection in the middle of its answer ({self._size} bytes)")

    # httptools' callbacks, during `feed_data`.

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._headers_at:  # trailers are of no use
            self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        if self._done:
            self.usable = False  # more than what was asked for
            return
        self._status = self._parser.get_status_code()
        self._answered = True
        if self._status >= 200:
            self._headers_at = self._received
        else:
            self._headers.clear()

    def on_body(self, part: bytes) -> None:
        if not self._done:
            self._parts.append(part)
            self._size += len(part)

    def on_message_complete(self) -> None:
        if self._headers_at and not self._done:
            self._done = True
            self._keeps_alive = self._parser.should_keep_alive()

    # The owner's side.

    async def send(self, call: Call) -> Response:
        """Make a request. Raises EndpointFailed or GuestTimeout, after which the connection is
        closed."""
        self._reset()
        loop = asyncio.get_running_loop()
        self._call, self._waiting = call, loop.create_future()
        self._transport.write(call.encoded())
        limit = loop.call_later(call.timeout_s, self._expire)
        try:
            return await self._waiting
        except BaseException:
            # Also when the caller was cancelled: the answer may still come, and belongs to nothing.
            self._waiting = None
            self.close()
            raise
        finally:
            limit.cancel()
            self._waiting = None

    @property
    def tls(self) -> str:
        """The version and cipher of TLS; empty without it."""
        cipher = self._transport.get_extra_info("cipher") if self._transport else None
        return f"{cipher[1]}, {cipher[0]}" if cipher else ""

    def close(self) -> None:
        self.usable = False
        if self._transport:
            self._transport.abort()

    def _until_closed(self) -> bool:
        """Whether the end of the connection is the end of the body."""
        chunked = "chunked" in self._headers.get("transfer-encoding", "").lower()
        return not chunked and "content-length" not in self._headers

    def _complete(self) -> None:
        if not (self.usable and self._keeps_alive):
            self.close()
        response = Response(
            self._status, self._headers, b"".join(self._parts),
            self._call.start if self._call else 0.0, self._headers_at, self._received,
        )  # fmt: skip
        waiting, self._waiting = self._waiting, None
        if waiting and not waiting.done():
            waiting.set_result(response)

    def _fail(self, why: str, error: type[EndpointFailed] = EndpointFailed) -> None:
        waiting, self._waiting = self._waiting, None
        self.close()
        if waiting and not waiting.done():
            asked = f"{self._call.method} {self._call.target}" if self._call else "a request"
            waiting.set_exception(error(f"{self.origin} failed at {asked}: {why}"))

    def _expire(self) -> None:
        call, waiting = self._call, self._waiting
        self._waiting = None
        self.close()
        if call and waiting and not waiting.done():
            got = "did not end its answer" if self._headers_at else "did not answer"
            text = f"{self.origin} {got} to {call.method} {call.target} in {call.timeout_s:g} s"
            waiting.set_exception(GuestTimeout(text))


def _not_http(data: bytes, origin: Origin) -> str:
    if not origin.tls and data[:1] in (b"\x15", b"\x16"):
        return "it answers in TLS; its address begins with https://"
    return "what it answers is not HTTP/1.1"


async def connected(
    origin: Origin, addresses: list[tuple[Any, ...]], tls: ssl.SSLContext | None, timeout_s: float
) -> HttpConnection:
    """A new connection to the first of these resolved addresses that accepts it.

    Raises EndpointUnreachable.
    """
    loop = asyncio.get_running_loop()
    last: Exception | None = None
    for family, _, _, _, address in addresses:
        try:
            async with asyncio.timeout(timeout_s):
                _, connection = await loop.create_connection(
                    lambda: HttpConnection(origin), address[0], origin.port, family=family,
                    ssl=tls, server_hostname=origin.host if tls else None,
                )  # fmt: skip
            return connection
        except (OSError, TimeoutError) as error:
            last = error
    assert last is not None
    raise EndpointUnreachable(f"{origin} cannot be reached: {reason_of(last, timeout_s)}") from last


def reason_of(error: Exception, timeout_s: float) -> str:
    """Why no connection came about."""
    tls: Any = sys.modules.get("ssl")  # it is loaded where TLS was tried
    if tls and isinstance(error, tls.SSLCertVerificationError):
        return f"its certificate does not fit: {error.verify_message}"
    if tls and isinstance(error, tls.SSLError):
        plain = error.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE")
        return (
            "it does not speak TLS; its address begins with http://"
            if plain
            else f"no TLS connection came about: {error.reason or error}"
        )
    if isinstance(error, TimeoutError):
        return f"no connection within {timeout_s:g} s"
    if isinstance(error, ConnectionRefusedError):
        return "nothing listens there"
    if isinstance(error, ConnectionResetError):
        return "it closed the connection at once"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


async def resolved(origin: Origin) -> list[tuple[Any, ...]]:
    """The addresses of an origin's host. Raises EndpointUnreachable."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(origin.host, origin.port, type=1)
    except OSError as error:
        raise EndpointUnreachable(
            f"{origin} cannot be reached: the name {origin.host} does not resolve "
            f"({error.strerror})"
        ) from error
    except UnicodeError as error:
        raise EndpointUnreachable(
            f"{origin} cannot be reached: {origin.host} is no name of a host"
        ) from error
    return list(found)

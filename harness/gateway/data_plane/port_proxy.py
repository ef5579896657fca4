"""HTTP to the servers that run in a sandbox, on ports other than those of E2B's own services.

Requests are forwarded without the headers for the gateway, and responses are streamed back; only a
few pieces are in memory at a time, in each direction. A connection that becomes a WebSocket is
forwarded as bytes (websocket_proxy.py).
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterable, Sequence

import httptools
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from harness.errors import AnswerTooLong, CoppiceError, GuestDied, GuestRefused, MalformedAnswer
from harness.gateway.data_plane.authorisation import TOKEN_HEADERS
from harness.gateway.envd.client import Envd
from harness.gateway.envd.connections import ServerConnection, dial
from harness.gateway.envd.process import Listener
from harness.gateway.http.request_body import has_arrived
from harness.gateway.http.responses import Json

GATEWAY_HEADERS = (
    b"e2b-sandbox-id", b"e2b-sandbox-port", TOKEN_HEADERS["traffic"].encode(), b"x-api-key",
)  # fmt: skip
"""Headers that are not forwarded to a sandbox."""
HOP_BY_HOP = (
    b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization",
    b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"expect",
)  # fmt: skip
HEAD_MAX = 1 << 16
"""Bytes of a response between two pieces of its body: headers, trailers, chunk extensions."""
STATUSES = range(100, 600)
IDLE_S = 60.0
"""How long a request's body may pause."""
LATE = f"no more of the request's body arrived for {IDLE_S:g} seconds"
PORT_IS_CLOSED = "The sandbox is running but port is not open"
"""The message of E2B's own proxy."""
Headers = Sequence[tuple[bytes, bytes]]


def port_is_closed(id: str, port: int) -> Response:
    """The response where no server listens."""
    return _failure(id, port, 502, PORT_IS_CLOSED)


def _failure(id: str, port: int, status: int, message: str) -> Response:
    body = {"sandboxId": id, "message": message, "port": port, "code": status}
    return Json(body, status)


async def connect(envd: Envd, port: int) -> tuple[ServerConnection, Listener] | None:
    """A connection to a server; None where no server listens."""
    try:
        return await dial(envd, port)
    except GuestRefused as error:
        if error.number in (errno.ECONNREFUSED, errno.ETIMEDOUT, errno.EINVAL):
            return None
        raise


def request_head(method: str, target: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The request line and headers."""
    lines = [b"%s %s HTTP/1.1" % (method.encode("ascii", "replace"), target)]
    lines += [b"%s: %s" % header for header in headers]
    return b"\r\n".join((*lines, b"", b""))


class ProxiedRequest(Response):
    """A request to a server in a sandbox, and the server's response."""

    def __init__(
        self, id: str, port: int, connection: ServerConnection, listener: Listener
    ) -> None:
        super().__init__()
        self._id, self._port = id, port
        self._connection, self._listener = connection, listener
        self._started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        forward = asyncio.ensure_future(self._forward(scope, receive))
        back = asyncio.ensure_future(self._return(scope["method"], send))
        try:
            await asyncio.wait({forward, back}, return_when=asyncio.FIRST_COMPLETED)
            if forward.done() and not back.done() and forward.result():
                await back  # the server, not the client, ended the request early
            if back.done():
                back.result()
        except (CoppiceError, TimeoutError) as error:
            if self._started:
                return  # without its end: the server closes the connection
            late = forward.done() and isinstance(forward.exception(), TimeoutError)
            message = LATE if late else str(error)
            self.status_code = 408 if late else 502
            response = _failure(self._id, self._port, self.status_code, message)
            await response(scope, receive, send)
        finally:
            self._listener.close()
            self._connection.drop()
            for task in (forward, back):
                task.cancel()
            await asyncio.gather(forward, back, return_exceptions=True)

    async def _forward(self, scope: Scope, receive: Receive) -> bool:
        """Send the request until the client disconnects (False) or the server accepts no more
        (True)."""
        headers: Headers = scope["headers"]
        dropped = {*HOP_BY_HOP, *GATEWAY_HEADERS}
        kept = [header for header in headers if header[0] not in dropped]
        sized = any(name == b"content-length" for name, _ in headers)
        chunked = not sized and any(name == b"transfer-encoding" for name, _ in headers)
        more = [(b"transfer-encoding", b"chunked")] if chunked else []
        query = b"?" + scope["query_string"] if scope["query_string"] else b""
        target = scope["raw_path"] + query
        head = request_head(scope["method"], target, (*kept, *more, (b"connection", b"close")))
        try:
            await self._connection.write(head)
            more_body = not has_arrived(scope)
            while True:
                if more_body:
                    async with asyncio.timeout(IDLE_S):
                        message = await receive()
                else:
                    message = await receive()
                more_body = message.get("more_body", False)
                if message["type"] == "http.disconnect":
                    return False
                data = message.get("body", b"")
                if data:
                    chunk = b"%x\r\n%s\r\n" % (len(data), data) if chunked else data
                    await self._connection.write(chunk)
                if chunked and not more_body:
                    await self._connection.write(b"0\r\n\r\n")
        except GuestRefused:
            return True

    async def _return(self, method: str, send: Send) -> None:
        response = ServerResponse(method)
        while not response.complete:
            event = await self._listener.get()
            if event.kind == "exit":
                response.end()
                if not response.complete:
                    raise GuestDied("the server in the sandbox closed the connection too early")
            else:
                response.feed(event.data)
            if response.status and not self._started:
                self._started = True
                self.status_code = response.status
                await send({"type": "http.response.start", "status": response.status,
                            "headers": response.headers})  # fmt: skip
            if response.body:
                data, response.body = bytes(response.body), bytearray()
                await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class ServerResponse:
    """Parses a server's response as it arrives; the `on_` methods are callbacks of httptools."""

    def __init__(self, method: str) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = bytearray()
        self.complete = False
        self._bodiless = method == "HEAD"
        self._sized = False
        self._head_bytes = 0
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        """MalformedAnswer for what is not HTTP, AnswerTooLong for endless headers."""
        if self.complete:
            return
        self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as error:
            raise MalformedAnswer("the server changes the protocol, unasked") from error
        except httptools.HttpParserError as error:
            raise MalformedAnswer(f"the server's response is not HTTP: {error}") from error
        if self._head_bytes > HEAD_MAX:
            raise AnswerTooLong("the head of the server's response is too long")
        if self.status not in (0, *STATUSES):
            raise MalformedAnswer(f"the server's response has the status {self.status}")

    def end(self) -> None:
        """The server has closed the connection, which ends a response without a length."""
        if self.status and not self._sized:
            self.complete = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.status:
            return  # a trailer
        name = name.lower()
        if name in (b"content-length", b"transfer-encoding"):
            self._sized = True
        if name not in HOP_BY_HOP:
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            self.headers.clear()  # an interim response
            return
        self.status = status
        if self._bodiless:
            self.complete = True

    def on_body(self, data: bytes) -> None:
        self._head_bytes = 0
        if not self.complete:
            self.body += data

    def on_message_complete(self) -> None:
        if self.status:
            self.complete = True

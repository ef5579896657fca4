"""Ports of a sandbox beside those of E2B's own services: HTTP to the servers that run in it.

A request goes on as it came, but for the headers that were for us, and the answer comes back as
the server gives it: piece by piece, each way, and never more than some of them are held. What is
upgraded to a WebSocket is carried as bytes (tunnel.py).
"""

from __future__ import annotations

import asyncio
import errno
import hmac
from collections.abc import Iterable, Sequence

import httptools
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from harness.errors import GuestDied, GuestRefused
from harness.gateway.envd.client import Envd, Listener
from harness.gateway.envd.connections import Link, dial
from harness.gateway.errors import ApiError
from harness.gateway.sandboxes.entries import Entry

TOKEN = "e2b-traffic-access-token"
OURS = (b"e2b-sandbox-id", b"e2b-sandbox-port", TOKEN.encode(), b"x-api-key")
"""Headers that a sandbox need not see."""
HOP = (
    b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization",
    b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"expect",
)  # fmt: skip
HEAD_MAX = 1 << 16
Headers = Sequence[tuple[bytes, bytes]]


def closed(id: str, port: int) -> Response:
    """What E2B's own proxy says where nobody listens."""
    message = "The sandbox is running but port is not open"
    return JSONResponse({"sandboxId": id, "message": message, "port": port, "code": 502}, 502)


def admit(entry: Entry, expected: str, given: str) -> None:
    """Traffic is public unless the sandbox's network rules say that it is not. ApiError 403."""
    if entry.record.network.get("allowPublicTraffic") is not False:
        return
    if not hmac.compare_digest(expected.encode(), given.encode()):
        raise ApiError(403, f"this sandbox's ports need its token, in the header {TOKEN}")


async def opened(envd: Envd, port: int) -> tuple[Link, Listener] | None:
    """A connection to a server; None where nobody listens."""
    try:
        return await dial(envd, port)
    except GuestRefused as error:
        if error.number in (errno.ECONNREFUSED, errno.ETIMEDOUT, errno.EINVAL):
            return None
        raise


def head(method: str, target: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A request's first lines."""
    lines = [b"%s %s HTTP/1.1" % (method.encode("ascii", "replace"), target)]
    lines += [b"%s: %s" % one for one in headers]
    return b"\r\n".join((*lines, b"", b""))


class Passage(Response):
    """One request to a server in a sandbox, and its answer."""

    def __init__(self, id: str, port: int, link: Link, listener: Listener) -> None:
        super().__init__()
        self._id, self._port = id, port
        self._link, self._listener = link, listener
        self._begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        there = asyncio.ensure_future(self._there(scope, receive))
        back = asyncio.ensure_future(self._back(scope["method"], send))
        try:
            await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
            if there.done() and not back.done() and there.result():
                await back  # the request was given up by the server, not by who asked
            if back.done():
                back.result()
        except (GuestDied, GuestRefused, TimeoutError, httptools.HttpParserError) as error:
            if self._begun:
                raise ConnectionResetError(str(error)) from error  # cut short, and seen to be
            self.status_code = 502
            said = {"sandboxId": self._id, "message": str(error), "port": self._port, "code": 502}
            await JSONResponse(said, 502)(scope, receive, send)
        finally:
            self._listener.close()
            self._link.drop()
            for task in (there, back):
                task.cancel()
            await asyncio.gather(there, back, return_exceptions=True)

    async def _there(self, scope: Scope, receive: Receive) -> bool:
        """Send the request; returns when who asked has gone away (False), or the server takes no
        more of it (True)."""
        headers: Headers = scope["headers"]
        kept = [one for one in headers if one[0] not in HOP and one[0] not in OURS]
        sized = any(name == b"content-length" for name, _ in headers)
        chunked = not sized and any(name == b"transfer-encoding" for name, _ in headers)
        more = [(b"transfer-encoding", b"chunked")] if chunked else []
        query = b"?" + scope["query_string"] if scope["query_string"] else b""
        target = scope["raw_path"] + query
        try:
            await self._link.send(
                head(scope["method"], target, (*kept, *more, (b"connection", b"close")))
            )
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return False
                data = message.get("body", b"")
                if data:
                    await self._link.send(b"%x\r\n%s\r\n" % (len(data), data) if chunked else data)
                if chunked and not message.get("more_body"):
                    await self._link.send(b"0\r\n\r\n")
        except GuestRefused:
            return True

    async def _back(self, method: str, send: Send) -> None:
        answer = Answer(method)
        while not answer.whole:
            said = await self._listener.get()
            if said is None:
                raise GuestDied("the sandbox is gone")
            if said.what == "exit":
                answer.end()
                if not answer.whole:
                    raise GuestDied("the server in the sandbox closed the connection too soon")
            else:
                answer.feed(said.data)
            if answer.status and not self._begun:
                self._begun = True
                self.status_code = answer.status
                await send({"type": "http.response.start", "status": answer.status,
                            "headers": answer.headers})  # fmt: skip
            if answer.body:
                data, answer.body = bytes(answer.body), bytearray()
                await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class Answer:
    """A server's answer as it comes; the callbacks are those of httptools."""

    def __init__(self, method: str) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = bytearray()
        self.whole = False
        self._bodiless = method == "HEAD"
        self._sized = False
        self._before = 0
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        """Raises HttpParserError for what is no answer."""
        if not self.status:
            self._before += len(data)
            if self._before > HEAD_MAX:
                raise httptools.HttpParserError("the head of the server's answer is too long")
        if not self.whole:
            self._parser.feed_data(data)

    def end(self) -> None:
        """The server has closed: the end of an answer that does not say how long it is."""
        if self.status and not self._sized:
            self.whole = True

    def on_header(self, name: bytes, value: bytes) -> None:
        lower = name.lower()
        if lower in (b"content-length", b"transfer-encoding"):
            self._sized = True
        if lower not in HOP:
            self.headers.append((lower, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            self.headers.clear()  # it says that it has not begun
            return
        self.status = status
        if self._bodiless:
            self.whole = True

    def on_body(self, data: bytes) -> None:
        if not self.whole:
            self.body += data

    def on_message_complete(self) -> None:
        if self.status:
            self.whole = True

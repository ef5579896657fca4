"""The least of HTTP/1.1 that a stand-in needs: requests read, responses written as told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import parse_qsl, unquote, urlsplit

LARGEST_BODY = 16 << 20


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    """By lower-case name."""
    body: bytes


@dataclass(frozen=True)
class Response:
    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    stream: AsyncIterator[bytes] | None = None
    """Sent in chunks, instead of a body."""
    ends: bool = True
    """Otherwise trailers follow the chunks for ever."""


async def read(reader: asyncio.StreamReader) -> Request | None:
    """The next request of a connection; None at its end. ValueError if it is not understood."""
    try:
        begin = await reader.readexactly(1)
        if not begin.isalpha():  # TLS, most likely
            raise ValueError("a stand-in speaks HTTP/1.1 here")
        head = (begin + await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.rstrip().split("\r\n")
        method, target, _ = first.split(" ", 2)
        pairs = (line.partition(":") for line in lines)
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        if headers.get("expect", "").lower() == "100-continue":
            raise ValueError("a stand-in does not answer Expect")
        if headers.get("transfer-encoding", "").lower() == "chunked":
            body = await _chunked(reader)
        else:
            body = await reader.readexactly(
                min(int(headers.get("content-length", 0)), LARGEST_BODY)
            )
    except (asyncio.IncompleteReadError, ConnectionError, asyncio.LimitOverrunError):
        return None
    parts = urlsplit(target)
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    return Request(method, unquote(parts.path), query, headers, body)


async def _chunked(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
        if len(body) > LARGEST_BODY:
            raise ValueError("the body is too large for a stand-in")
    while await reader.readuntil(b"\r\n") != b"\r\n":
        pass
    return body


def head(response: Response, date: str) -> bytes:
    """The status line and headers of a response."""
    length = (
        {"transfer-encoding": "chunked"}
        if response.stream is not None
        else {} if response.status == 204 else {"content-length": str(len(response.body))}
    )  # fmt: skip
    headers = {"date": date, **length, **response.headers}
    try:
        phrase = HTTPStatus(response.status).phrase
    except ValueError:
        phrase = "Unknown"
    lines = [f"HTTP/1.1 {response.status} {phrase}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


TRAILERS = b"0\r\n"
"""Ends a body; trailers may follow, and an empty line."""
LAST_CHUNK = TRAILERS + b"\r\n"

"""Files over HTTP, in and out of a sandbox, as streams: no more than some pieces are ever held."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import time
import zlib
from collections import deque
from collections.abc import AsyncIterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from harness.errors import CoppiceError
from harness.gateway.envd.client import PIECE, Envd
from harness.gateway.errors import ApiError, as_http

AHEAD = 4
"""Pieces that are asked for before they are sent on."""
DRAIN_S = 5.0
IDLE_S = 60.0
"""Seconds after which an upload from which nothing comes is given up."""


def signature(path: str, operation: str, user: str, token: str, expiration: str) -> str:
    """What E2B's SDK puts into the address of a file instead of a token."""
    words = [path, operation, user, token, *([expiration] if expiration else [])]
    digest = hashlib.sha256(":".join(words).encode()).digest()
    return "v1_" + base64.b64encode(digest).decode().rstrip("=")


def check_signature(request: Request, operation: str, token: str) -> None:
    """Raises ApiError 401 where the address of a file is not signed for what is done with it."""
    query = request.query_params
    expiration = query.get("signature_expiration", "")
    expected = signature(
        query.get("path", ""), operation, query.get("username", ""), token, expiration
    )
    if not hmac.compare_digest(expected.encode(), query.get("signature", "").encode()):
        raise ApiError(401, "the signature does not fit")
    if expiration and (not expiration.isdecimal() or int(expiration) < time.time()):
        raise ApiError(401, "the signature has expired")


def _path(text: str | None) -> str:
    if not text:
        raise ApiError(400, "a path is needed")
    if "\0" in text or len(text) > 4000:
        raise ApiError(400, "this is no path")
    return text


async def download(request: Request, envd: Envd, user: str) -> Response:
    """A file as it is; its length is what it had when it was opened."""
    path = _path(request.query_params.get("path"))
    try:
        handle, size = await envd.open(path, user)
    except Exception as error:
        raise as_http(error) from error

    async def pieces() -> AsyncIterator[bytes]:
        coming: deque[asyncio.Task[bytes]] = deque()
        at = asked = 0
        try:
            while at < size:
                while len(coming) < AHEAD and asked < size:
                    coming.append(asyncio.ensure_future(envd.read(handle, asked)))
                    asked += PIECE
                piece = (await coming.popleft())[: size - at]
                if not piece:
                    break  # it was cut short meanwhile: the client sees that bytes are missing
                at += len(piece)
                yield piece
                if len(piece) < PIECE and at < size:
                    for task in coming:
                        task.cancel()
                    coming.clear()
                    asked = at
        finally:
            for task in coming:
                task.cancel()
            with contextlib.suppress(CoppiceError, TimeoutError):
                await envd.close_handle(handle)

    headers = {"content-length": str(size)}
    if size == 0:
        await envd.close_handle(handle)
        return Response(b"", media_type="application/octet-stream")
    return StreamingResponse(pieces(), 200, headers, "application/octet-stream")


class Upload:
    """One file on its way into a sandbox; whole, or not at all."""

    def __init__(self, envd: Envd, path: str, user: str) -> None:
        self.path = path
        self._envd = envd
        self._user = user
        self._handle: int | None = None
        self._room = bytearray()

    async def begin(self) -> None:
        self._handle, _ = await self._envd.open(self.path, self._user, write=True)

    async def take(self, data: bytes | memoryview) -> None:
        self._room += data
        while len(self._room) >= PIECE:
            piece = bytes(self._room[:PIECE])
            del self._room[:PIECE]
            await self._write(piece)

    async def _write(self, piece: bytes) -> None:
        assert self._handle is not None
        await self._envd.write(self._handle, piece)

    async def end(self, whole: bool) -> None:
        handle = self._handle
        if handle is None:
            return
        try:
            if whole and self._room:
                await self._write(bytes(self._room))
        finally:
            self._handle = None
            await self._envd.close_handle(handle, whole)


async def upload(request: Request, envd: Envd, user: str) -> Response:
    """One file as it is, or any number as a form; what was written."""
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    try:
        if kind == b"multipart/form-data":
            written = await _form(request, envd, user, options)
        else:
            written = [await _one(request, envd, user)]
    except ClientDisconnect:
        raise
    except Exception as error:
        await _drain(request)
        raise as_http(error) from error
    return JSONResponse([_told(path) for path in written])


async def _drain(request: Request) -> None:
    """Read on for a while: a client that still sends would not see what it is answered."""
    with contextlib.suppress(TimeoutError, RuntimeError):
        async with asyncio.timeout(DRAIN_S):
            async for _ in request.stream():
                pass


def _told(path: str) -> Mapping[str, Any]:
    return {"path": path, "name": PurePosixPath(path).name, "type": "file"}


async def _body(request: Request) -> AsyncIterator[bytes]:
    """The body, unpacked where it is packed; what does not move on is given up."""
    packed = request.headers.get("content-encoding", "").lower()
    if packed not in ("", "identity", "gzip"):
        raise ApiError(415, f"{packed} cannot be unpacked here")
    unpack = zlib.decompressobj(31) if packed == "gzip" else None
    stream = aiter(request.stream())
    while True:
        try:
            async with asyncio.timeout(IDLE_S):
                piece = await anext(stream)
        except StopAsyncIteration:
            break
        except TimeoutError as error:
            raise ApiError(408, "nothing came for too long") from error
        if unpack is None:
            yield piece
            continue
        try:
            yield unpack.decompress(piece, PIECE)
            while unpack.unconsumed_tail:
                yield unpack.decompress(unpack.unconsumed_tail, PIECE)
        except zlib.error as error:
            raise ApiError(400, f"the body is not gzip: {error}") from error
    if unpack is not None and not unpack.eof:
        raise ApiError(400, "the packed body ends too soon")


async def _one(request: Request, envd: Envd, user: str) -> str:
    one = Upload(envd, _path(request.query_params.get("path")), user)
    whole = False
    await one.begin()
    try:
        async for piece in _body(request):
            if piece:
                await one.take(piece)
        whole = True
    finally:
        await one.end(whole)
    return one.path


async def _form(
    request: Request, envd: Envd, user: str, options: Mapping[bytes, bytes]
) -> list[str]:
    """The fields of a form that are files, each to the path that it names or the request does."""
    if not options.get(b"boundary"):
        raise ApiError(400, "the form names no boundary")
    default = request.query_params.get("path")
    events: deque[tuple[str, bytes]] = deque()

    def note(what: str) -> Any:
        return lambda data, start, end: events.append((what, bytes(data[start:end])))

    parser = MultipartParser(
        options[b"boundary"],
        {
            "on_part_begin": lambda: events.append(("part", b"")),
            "on_part_data": note("data"),
            "on_part_end": lambda: events.append(("end", b"")),
            "on_header_field": note("field"),
            "on_header_value": note("value"),
            "on_header_end": lambda: events.append(("header", b"")),
            "on_headers_finished": lambda: events.append(("headers", b"")),
        },
    )
    written: list[str] = []
    open_now: Upload | None = None
    field = value = b""
    headers: dict[bytes, bytes] = {}
    whole = False
    try:
        async for piece in _body(request):
            try:
                parser.write(piece)
            except Exception as error:
                raise ApiError(400, f"the form cannot be read: {error}") from error
            while events:
                what, data = events.popleft()
                if what == "part":
                    headers = {}
                elif what == "field":
                    field += data
                elif what == "value":
                    value += data
                elif what == "header":
                    headers[field.lower()] = value
                    field = value = b""
                elif what == "headers":
                    open_now = _part(headers, default, envd, user)
                    if open_now:
                        await open_now.begin()
                elif what == "data" and open_now:
                    await open_now.take(data)
                elif what == "end" and open_now:
                    done, open_now = open_now, None
                    await done.end(True)
                    written.append(done.path)
        whole = not open_now
    finally:
        if open_now:
            await open_now.end(False)
    if not whole:
        raise ApiError(400, "the form ends within a file")
    if not written:
        raise ApiError(400, "the form has no file")
    return written


def _part(
    headers: Mapping[bytes, bytes], default: str | None, envd: Envd, user: str
) -> Upload | None:
    _, options = parse_options_header(headers.get(b"content-disposition", b""))
    if options.get(b"name") != b"file":
        return None
    return Upload(envd, _path(default or options.get(b"filename", b"").decode()), user)

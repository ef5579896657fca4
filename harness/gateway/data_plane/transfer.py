"""Upload and download of files as streams: only a few pieces are in memory at a time."""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from harness.errors import CoppiceError
from harness.gateway.digits import whole_number
from harness.gateway.envd.channel import PIECE
from harness.gateway.envd.client import Envd
from harness.gateway.errors import ApiError, as_http
from harness.gateway.http.responses import Json, Stream
from harness.gateway.query_string import parameters

AHEAD = 4
"""Pieces that are requested before they can be sent."""
DRAIN_S = 5.0
BYTES = "application/octet-stream"
IDLE_S = 60.0
"""Seconds without data after which an upload is aborted."""


QUERY = ("path", "username", "signature", "signature_expiration")
PARTS_MAX = 10_000
METADATA = "x-metadata-"
"""The start of headers with metadata of a file, which this envd does not keep."""


def check(request: Request) -> None:
    """ApiError 400 for a request that asks for what transfers do not offer."""
    names = [name for name, _ in parameters(request).multi_items()]
    for name in names:
        if name not in QUERY:
            raise ApiError(400, f"unknown query parameter {name!r}")
        if names.count(name) > 1:
            raise ApiError(400, f"the query parameter {name} is repeated")
    for name in request.headers:
        if name.startswith(METADATA):
            raise ApiError(400, f"{name}: metadata of files is not offered by this gateway")


def _path(text: str | None) -> str:
    if not text:
        raise ApiError(400, "a path is required")
    return text


async def download(request: Request, envd: Envd, user: str) -> Response:
    """A file, with the length that it had when it was opened; or, where its size is not known
    (as in /proc), as chunks until its end."""
    path = _path(request.query_params.get("path"))
    try:
        opened = await envd.open(path, user)
        try:
            first = await envd.read(opened.handle, 0)
        except BaseException:
            await _close(envd, opened.handle)
            raise
    except Exception as error:
        raise as_http(error) from error
    if len(first) < PIECE:
        await _close(envd, opened.handle)
        return Response(first, media_type=BYTES)
    size = opened.size if opened.size > PIECE else None
    headers = {} if size is None else {"content-length": str(size)}
    return Stream(_pieces(envd, opened.handle, first, size), BYTES, headers)


async def _pieces(envd: Envd, handle: int, first: bytes, size: int | None) -> AsyncGenerator[bytes]:
    reads: deque[asyncio.Task[bytes]] = deque()
    at = requested = len(first)
    try:
        yield first
        while size is None or at < size:
            while len(reads) < AHEAD and (size is None or requested < size):
                reads.append(asyncio.ensure_future(envd.read(handle, requested)))
                requested += PIECE
            piece = await reads.popleft()
            data = piece if size is None else piece[: size - at]
            at += len(data)
            if data:
                yield data
            if len(piece) < PIECE:
                break  # if it was truncated meanwhile, the client notices that bytes are missing
    finally:
        for task in reads:
            task.cancel()
        await _close(envd, handle)


async def _close(envd: Envd, handle: int) -> None:
    with contextlib.suppress(CoppiceError, TimeoutError):
        await envd.close_handle(handle)


class Upload:
    """A file being written to a sandbox. A new file is written completely or not at all. One that
    exists is replaced in place, as in E2B's envd: it keeps its inode, and its old content if it is
    known that the new content does not fit. `length` is that of the content, 0 if unknown."""

    def __init__(self, envd: Envd, path: str, user: str, length: int = 0) -> None:
        self.path = path
        self._envd = envd
        self._user = user
        self._length = length
        self._handle: int | None = None
        self._buffer = bytearray()

    async def open(self) -> None:
        opened = await self._envd.open(self.path, self._user, write=True)
        self._handle, self.path = opened.handle, opened.path

    async def write(self, data: bytes | memoryview) -> None:
        self._buffer += data
        while len(self._buffer) >= PIECE:
            piece = bytes(self._buffer[:PIECE])
            del self._buffer[:PIECE]
            await self._send(piece)

    async def _send(self, piece: bytes) -> None:
        assert self._handle is not None
        await self._envd.write(self._handle, piece, max(self._length, len(piece)))

    async def close(self, complete: bool) -> None:
        handle = self._handle
        if handle is None:
            return
        try:
            if complete and self._buffer:
                await self._send(bytes(self._buffer))
        finally:
            self._handle = None
            await self._envd.close_handle(handle, complete)


async def upload(request: Request, envd: Envd, user: str) -> Response:
    """Write a request's body to a file, or the files of a form; the response lists them."""
    content_type, options = parse_options_header(request.headers.get("content-type", ""))
    try:
        if content_type == b"multipart/form-data":
            written = await _write_form(request, envd, user, options)
        else:
            written = [await _write_body(request, envd, user)]
    except ClientDisconnect:
        raise
    except Exception as error:
        await _drain(request)
        raise as_http(error) from error
    return Json([_entry(path) for path in written])


async def _drain(request: Request) -> None:
    """Read on for a while: a client that is still sending would not see the response."""
    with contextlib.suppress(TimeoutError, RuntimeError):
        async with asyncio.timeout(DRAIN_S):
            async for _ in request.stream():
                pass


def _entry(path: str) -> Mapping[str, Any]:
    return {"path": path, "name": PurePosixPath(path).name, "type": "file"}


async def _body(request: Request) -> AsyncIterator[bytes]:
    """The body, decompressed if it is compressed; aborted when no data arrives."""
    encoding = request.headers.get("content-encoding", "").lower()
    if encoding not in ("", "identity", "gzip"):
        raise ApiError(415, f"the content encoding {encoding} is not supported; gzip is")
    gzip = zlib.decompressobj(31) if encoding == "gzip" else None
    stream = aiter(request.stream())
    while True:
        try:
            async with asyncio.timeout(IDLE_S):
                piece = await anext(stream)
        except StopAsyncIteration:
            break
        except TimeoutError as error:
            raise ApiError(408, f"no data arrived for {IDLE_S:g} seconds") from error
        if gzip is None:
            yield piece
            continue
        try:
            yield gzip.decompress(piece, PIECE)
            while gzip.unconsumed_tail:
                yield gzip.decompress(gzip.unconsumed_tail, PIECE)
        except zlib.error as error:
            raise ApiError(400, f"the body is not gzip: {error}") from error
    if gzip is not None and not gzip.eof:
        raise ApiError(400, "the gzip body is truncated")


async def _write_body(request: Request, envd: Envd, user: str) -> str:
    length = 0  # not known
    if "content-encoding" not in request.headers:
        length = whole_number(request.headers.get("content-length", "")) or 0
    path = _path(request.query_params.get("path"))
    upload = Upload(envd, path, user, length)
    complete = False
    await upload.open()
    try:
        async for piece in _body(request):
            if piece:
                await upload.write(piece)
        complete = True
    finally:
        await upload.close(complete)
    return upload.path


async def _write_form(
    request: Request, envd: Envd, user: str, options: Mapping[bytes, bytes]
) -> list[str]:
    """Write the files of a form, each to the path in the request or else its own name."""
    if not options.get(b"boundary"):
        raise ApiError(400, "the form has no boundary")
    default = request.query_params.get("path")
    events: deque[tuple[str, bytes]] = deque()

    def append(event: str) -> Any:
        return lambda data, start, end: events.append((event, bytes(data[start:end])))

    parser = MultipartParser(
        options[b"boundary"],
        {
            "on_part_begin": lambda: events.append(("part", b"")),
            "on_part_data": append("data"),
            "on_part_end": lambda: events.append(("end", b"")),
            "on_header_field": append("field"),
            "on_header_value": append("value"),
            "on_header_end": lambda: events.append(("header", b"")),
            "on_headers_finished": lambda: events.append(("headers", b"")),
        },
    )
    written: list[str] = []
    current: Upload | None = None
    field = value = b""
    headers: dict[bytes, bytes] = {}
    complete = False
    try:
        async for piece in _body(request):
            try:
                parser.write(piece)
            except Exception as error:
                raise ApiError(400, f"the form is malformed: {error}") from error
            while events:
                event, data = events.popleft()
                if event == "part":
                    headers = {}
                    if len(written) >= PARTS_MAX:
                        raise ApiError(400, f"the form has more than {PARTS_MAX} files")
                elif event == "field":
                    field += data
                elif event == "value":
                    value += data
                elif event == "header":
                    headers[field.lower()] = value
                    field = value = b""
                elif event == "headers":
                    current = _part(headers, default, envd, user)
                    await current.open()
                elif event == "data" and current:
                    await current.write(data)
                elif event == "end" and current:
                    done, current = current, None
                    await done.close(True)
                    written.append(done.path)
        complete = not current
    finally:
        if current:
            await current.close(False)
    if not complete:
        raise ApiError(400, "the form ends in the middle of a file")
    if not written:
        raise ApiError(400, "the form has no field named file")
    return written


def _part(headers: Mapping[bytes, bytes], default: str | None, envd: Envd, user: str) -> Upload:
    _, options = parse_options_header(headers.get(b"content-disposition", b""))
    if (name := options.get(b"name", b"")) != b"file":
        raise ApiError(400, f"unknown field {name.decode('utf-8', 'replace')!r} in the form")
    return Upload(envd, _path(default or options.get(b"filename", b"").decode()), user)

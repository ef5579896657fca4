"""One call of the control plane: who asks for what, and the pages of lists."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Coroutine, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

from starlette.requests import Request

from harness.gateway.errors import ApiError
from harness.gateway.sandboxes.entries import Entry
from harness.gateway.sandboxes.store import Key

PAGE = 100
T = TypeVar("T")


class Call:
    """One request: whose, of which sandbox, and with what."""

    def __init__(self, key: Key, id: str, request: Request, body: Mapping[str, Any]) -> None:
        self.key = key
        self.id = id
        self.body = body
        self._request = request

    async def watched(self, work: Coroutine[Any, Any, T]) -> tuple[T | None, bool]:
        """Do what takes long. Who asked may go away meanwhile: then the work is cancelled, and
        this says so, beside what it had come to. Raises what the work raises."""
        doing = asyncio.ensure_future(work)
        leaving = asyncio.ensure_future(self._request.receive())  # its body was read: the end
        try:
            await asyncio.wait((doing, leaving), return_when=asyncio.FIRST_COMPLETED)
            left = not doing.done() or leaving.done()
            if left:
                doing.cancel()
                await asyncio.wait((doing,))
            return (None if doing.cancelled() else doing.result()), left
        finally:
            doing.cancel()
            leaving.cancel()

    def query(self, name: str) -> str | None:
        return self._request.query_params.get(name)

    def queries(self, name: str) -> Sequence[str]:
        return self._request.query_params.getlist(name)

    def number(self, name: str, default: int) -> int:
        text = self.query(name)
        if text is None:
            return default
        if not text.isascii() or not text.isdecimal() or len(text) > 18:
            raise ApiError(400, f"{name} is a whole number")
        return int(text)


async def read(request: Request, limit: int) -> bytes:
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > limit:
            raise ApiError(413, f"a request has at most {limit} bytes")
    return bytes(data)


def place(entry: Entry) -> tuple[float, str]:
    return entry.record.started, entry.id


def page(
    call: Call, found: Sequence[tuple[tuple[float, str], Any]], down: bool
) -> tuple[list[Any], Mapping[str, str]]:
    """One page of what is sorted by its places; the header that names the next."""
    limit = call.number("limit", PAGE)
    if not 1 <= limit <= PAGE:
        raise ApiError(400, f"limit is 1 to {PAGE}")
    if token := call.query("nextToken"):
        after = _read_token(token)
        found = [one for one in found if (one[0] < after if down else one[0] > after)]
    page = found[:limit]
    more = len(found) > limit
    headers = {"x-next-token": _token(page[-1][0])} if more else {}
    return [one for _, one in page], headers


def _token(place: tuple[float, str]) -> str:
    return base64.urlsafe_b64encode(f"{place[0]!r} {place[1]}".encode()).decode()


def _read_token(token: str) -> tuple[float, str]:
    try:
        at, _, id = base64.urlsafe_b64decode(token).decode().partition(" ")
        return float(at), id
    except (ValueError, binascii.Error, UnicodeError) as error:
        raise ApiError(400, "nextToken is none of ours") from error


def instant(text: str) -> float:
    try:
        return datetime.fromisoformat(text.replace(" ", "+")).timestamp()
    except (ValueError, OverflowError, OSError) as error:
        raise ApiError(400, f"{text!r} is no time") from error

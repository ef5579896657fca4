"""A call of the control plane, and the pages of its lists."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Coroutine, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote

from starlette.requests import Request

from harness.gateway.digits import whole_number
from harness.gateway.errors import ApiError
from harness.gateway.http.exchange import exchange_of
from harness.gateway.query_string import check_percents
from harness.gateway.sandboxes.sandbox import Sandbox
from harness.gateway.sandboxes.store import Key

PAGE = 100
Position = tuple[float, str]
"""A place in a list: the time of an item and, among items of the same time, its id."""
T = TypeVar("T")


class Call:
    """A request: its key, the id in its path, and its body."""

    def __init__(self, key: Key, id: str, request: Request, body: Mapping[str, Any]) -> None:
        self.key = key
        self.id = id
        self.body = body
        self._request = request

    async def unless_disconnected(self, work: Coroutine[Any, Any, T]) -> tuple[T | None, bool]:
        """Do long work, cancelled if the caller disconnects; its result, if any, and whether the
        caller disconnected. Raises what the work raises."""
        return await exchange_of(self._request.scope).unless_left(work)

    def header(self, name: str) -> str:
        return self._request.headers.get(name, "")

    def seconds(self, name: str, default_s: float) -> float:
        """A time in the body."""
        given = self.body.get(name)
        return float(default_s if given is None else given)

    def query(self, name: str) -> str | None:
        return self._request.query_params.get(name)

    def comma_list(self, name: str) -> Sequence[str]:
        """The items of a parameter that may be repeated and may contain commas."""
        values = self._request.query_params.getlist(name)
        return [item for item in ",".join(values).split(",") if item]

    def number(self, name: str, default: int) -> int:
        text = self.query(name)
        if text is None:
            return default
        number = whole_number(text)
        if number is None:
            raise ApiError(400, f"{name} must be a whole number")
        return number


def position(sandbox: Sandbox) -> Position:
    """Where a sandbox is in a list."""
    return sandbox.stored.started, sandbox.id


def page(
    call: Call, items: Sequence[tuple[Position, T]], descending: bool
) -> tuple[list[T], Mapping[str, str]]:
    """A page of sorted items, and the header with the token of the next."""
    limit = call.number("limit", PAGE)
    if not 1 <= limit <= PAGE:
        raise ApiError(400, f"limit must be from 1 to {PAGE}")
    if token := call.query("nextToken"):
        after = _decode_token(token)
        items = [item for item in items if (item[0] < after if descending else item[0] > after)]
    page = items[:limit]
    more = len(items) > limit
    headers = {"x-next-token": _encode_token(page[-1][0])} if more else {}
    return [item for _, item in page], headers


def _encode_token(position: Position) -> str:
    return base64.urlsafe_b64encode(f"{position[0]!r} {position[1]}".encode()).decode()


def _decode_token(token: str) -> Position:
    try:
        at, _, id = base64.urlsafe_b64decode(token).decode().partition(" ")
        position = float(at), id
        if math.isfinite(position[0]) and _encode_token(position) == token:
            return position
    except (ValueError, binascii.Error, UnicodeError):
        pass
    raise ApiError(400, "invalid nextToken: use the x-next-token of a response")


def metadata_filter(text: str) -> Mapping[str, str]:
    """The pairs of a `metadata` parameter. ApiError 400 for anything else."""
    if not text:
        return {}
    check_percents(text, "metadata")
    try:
        pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=True)
    except ValueError as error:
        raise ApiError(400, "metadata must be pairs of NAME=VALUE, joined by &") from error
    # E2B's API has names and values quoted twice: the SDKs quote them before the query string.
    wanted = {unquote(name): unquote(value) for name, value in pairs}
    if len(wanted) < len(pairs):
        raise ApiError(400, "metadata has a name twice")
    return wanted


def parse_time(text: str) -> float:
    try:
        return datetime.fromisoformat(text.replace(" ", "+")).timestamp()
    except (ValueError, OverflowError, OSError) as error:
        raise ApiError(400, f"{text!r} is not an ISO 8601 time") from error

"""The body of an HTTP request, up to a size and within a time."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect, Request
from starlette.types import Scope

from harness.gateway.errors import ApiError
from harness.gateway.http.exchange import EXCHANGE, Exchange, exchange_of

BODY_S = 60.0
LATE = f"the request's body took longer than {BODY_S:g} seconds"


async def read_body(
    request: Request,
    limit: int,
    too_long: Exception | None = None,
    late: Exception | None = None,
) -> bytes:
    """The body. Raises `too_long`, or ApiError 413, when it is longer than `limit` or announced to
    be, and `late`, or ApiError 408, when it does not arrive in time."""
    if has_arrived(request.scope):
        data = arrived_body(request.scope)
        if len(data) > limit:
            raise too_long or _longer_than(limit)
        return data
    if _announced(request.scope) > limit:
        raise too_long or _longer_than(limit)
    try:
        async with asyncio.timeout(BODY_S):
            return await _whole(request, limit, too_long)
    except TimeoutError:
        raise late or ApiError(408, LATE) from None


async def _whole(request: Request, limit: int, too_long: Exception | None) -> bytes:
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > limit:
            raise too_long or _longer_than(limit)
    return bytes(data)


def _announced(scope: Scope) -> int:
    """The length of the body in the request's headers; 0 if it is not there."""
    for name, value in scope.get("headers", ()):
        if name == b"content-length" and value.isdigit():
            return int(value[:20])  # the parser has refused longer ones
    return 0


def _longer_than(limit: int) -> ApiError:
    return ApiError(413, f"the request body is longer than {limit} bytes")


def has_arrived(scope: Scope) -> bool:
    """Whether the whole body has arrived, so that nothing is waited for."""
    exchange: Exchange | None = scope.get("state", {}).get(EXCHANGE)
    return exchange is not None and exchange.arrived


def arrived_body(scope: Scope) -> bytes:
    """The body of such a request. ClientDisconnect if its caller has left."""
    exchange = exchange_of(scope)
    if exchange.disconnected:
        raise ClientDisconnect
    return exchange.take_body()

"""The body of an HTTP request, up to a size and within a time."""

from __future__ import annotations

import asyncio

from starlette.requests import Request

from harness.gateway.errors import ApiError

BODY_S = 60.0
LATE = f"the request's body took longer than {BODY_S:g} seconds"


async def read_body(
    request: Request,
    limit: int,
    too_long: Exception | None = None,
    late: Exception | None = None,
) -> bytes:
    """The body. Raises `too_long`, or ApiError 413, when it is longer than `limit`, and `late`, or
    ApiError 408, when it does not arrive in time."""
    data = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for piece in request.stream():
                data += piece
                if len(data) > limit:
                    message = f"the request body is longer than {limit} bytes"
                    raise too_long or ApiError(413, message)
    except TimeoutError:
        raise late or ApiError(408, LATE) from None
    return bytes(data)

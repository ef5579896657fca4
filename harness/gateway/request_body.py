"""The body of an HTTP request, up to a limit."""

from __future__ import annotations

from starlette.requests import Request

from harness.gateway.errors import ApiError


async def read_body(request: Request, limit: int, refusal: Exception | None = None) -> bytes:
    """The body. Raises `refusal`, or ApiError 413, when it is longer than `limit`."""
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > limit:
            raise refusal or ApiError(413, f"the request body is longer than {limit} bytes")
    return bytes(data)

"""Responses that are written without a request."""

from __future__ import annotations

import json
from http import HTTPStatus

from harness.gateway.errors import ApiError


def refusal(error: ApiError) -> bytes:
    """A response in E2B's format, after which the connection is closed."""
    body = json.dumps(error.body()).encode()
    headers = {
        "content-type": "application/json", "content-length": str(len(body)),
        "connection": "close", **error.headers(),
    }  # fmt: skip
    lines = [f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}"]
    lines += [f"{name.lower()}: {value}" for name, value in headers.items()]
    return "\r\n".join((*lines, "", "")).encode() + body

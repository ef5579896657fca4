"""Signed URLs of files, which E2B's SDK makes so that no token is needed."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time

from starlette.datastructures import QueryParams

from harness.gateway.digits import whole_number
from harness.gateway.errors import ApiError

OPERATIONS = {"GET": "read", "HEAD": "read", "POST": "write"}
"""What a signature permits, by the method of the request."""


def signature(path: str, operation: str, user: str, token: str, expiration: str) -> str:
    """As E2B's SDK computes it."""
    parts = [path, operation, user, token, *([expiration] if expiration else [])]
    digest = hashlib.sha256(":".join(parts).encode()).digest()
    return "v1_" + base64.b64encode(digest).decode().rstrip("=")


def matches(method: str, query: QueryParams, token: str) -> bool:
    """Whether the URL is signed with this token for this method, expired or not."""
    expected = signature(
        query.get("path", ""), OPERATIONS.get(method, ""), query.get("username", ""), token,
        query.get("signature_expiration", ""),
    )  # fmt: skip
    return hmac.compare_digest(expected.encode(), query.get("signature", "").encode())


def refusal(method: str, query: QueryParams, token: str) -> ApiError | None:
    """ApiError 401 for a URL that is not signed for this method, or whose time is over."""
    if not matches(method, query, token):
        return ApiError(401, "the signature does not match this URL and operation")
    expiration = query.get("signature_expiration", "")
    if expiration and (whole_number(expiration) or 0) < time.time():
        return ApiError(401, "the signature has expired")
    return None

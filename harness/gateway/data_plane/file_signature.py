"""Signed URLs of files, which E2B's SDK makes so that no token is needed."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time

from starlette.requests import Request

from harness.gateway.errors import ApiError


def signature(path: str, operation: str, user: str, token: str, expiration: str) -> str:
    """As E2B's SDK computes it."""
    parts = [path, operation, user, token, *([expiration] if expiration else [])]
    digest = hashlib.sha256(":".join(parts).encode()).digest()
    return "v1_" + base64.b64encode(digest).decode().rstrip("=")


def check(request: Request, operation: str, token: str) -> None:
    """Raises ApiError 401 unless the URL is signed for this operation and has not expired."""
    query = request.query_params
    expiration = query.get("signature_expiration", "")
    expected = signature(
        query.get("path", ""), operation, query.get("username", ""), token, expiration
    )
    if not hmac.compare_digest(expected.encode(), query.get("signature", "").encode()):
        raise ApiError(401, "the signature does not match this URL and operation")
    if expiration and (not expiration.isdecimal() or int(expiration) < time.time()):
        raise ApiError(401, "the signature has expired")

"""The access tokens of sandboxes."""

from __future__ import annotations

import functools
import hmac
from collections.abc import Iterable

KEPT = 4096
"""Tokens that are not derived again for each request."""


class Tokens:
    """Derived from the gateway's secret, so they need not be stored."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._derived = functools.lru_cache(maxsize=KEPT)(self._derive)

    def _derive(self, id: str, purpose: str) -> str:
        return hmac.digest(self._secret, f"{purpose}:{id}".encode(), "sha256").hex()

    def of(self, id: str, purpose: str) -> str:
        """A sandbox's token for `envd`, or for `traffic` to its ports."""
        return self._derived(id, purpose)

    def matches(self, id: str, purpose: str, token: str | bytes) -> bool:
        """Compare a caller's token, in constant time."""
        given = token.encode() if isinstance(token, str) else token
        return hmac.compare_digest(self.of(id, purpose).encode(), given)

    def sandbox_with(self, token: bytes, ids: Iterable[str]) -> str | None:
        """The sandbox whose token for envd this is, if any."""
        for id in ids:
            if self.matches(id, "envd", token):
                return id
        return None

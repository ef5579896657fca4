"""How often a key may call the control plane."""

from __future__ import annotations

import time

from harness.gateway.errors import ApiError
from harness.gateway.sandboxes.store import Key


class RateLimiter:
    """A token bucket for each key: bursts up to `burst`, refilled at `rate` per second."""

    def __init__(self) -> None:
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, key: Key) -> None:
        """Raises ApiError 429 when the key's bucket is empty."""
        now = time.monotonic()
        left, at = self._buckets.get(key.id, (float(key.limits.burst), now))
        left = min(left + (now - at) * key.limits.rate, key.limits.burst)
        if left < 1:
            self._buckets[key.id] = (left, now)
            raise ApiError(429, f"this key may make {key.limits.rate:g} requests per second")
        self._buckets[key.id] = (left - 1, now)

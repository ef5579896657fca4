"""How often a key may call the control plane."""

from __future__ import annotations

import math
import time

from harness.gateway.errors import ApiError
from harness.gateway.sandboxes.store import Key

WAIT_MAX_S = 3600.0


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
            wait_s = (
                min((1 - left) / key.limits.rate, WAIT_MAX_S) if key.limits.rate else WAIT_MAX_S
            )
            raise ApiError(
                429,
                f"this key may make {key.limits.rate:g} requests per second",
                retry_after=math.ceil(wait_s),
            )
        self._buckets[key.id] = (left - 1, now)

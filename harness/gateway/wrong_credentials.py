"""How often an address may present wrong keys and tokens."""

from __future__ import annotations

import math
import time
from collections import OrderedDict

from harness.gateway.client_network import client_network
from harness.gateway.errors import ApiError

BURST = 60
PER_SECOND = 1.0
ADDRESSES_MAX = 10_000
"""Addresses that are remembered; beyond it, the one that failed least recently is forgotten."""


class WrongCredentials:
    """A token bucket for each address: `BURST` failures at once, then `PER_SECOND`."""

    def __init__(self) -> None:
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_of(self, address: str) -> float:
        """The seconds until this address may fail again; 0 if it may now."""
        left, _ = self._state(client_network(address))
        return 0.0 if left >= 1 else (1 - left) / PER_SECOND

    def answer(self, address: str, refusal: ApiError) -> ApiError:
        """Count a failure. Returns `refusal`, or 429 for an address that has failed too often."""
        network = client_network(address)
        left, now = self._state(network)
        if left < 1:
            return too_often((1 - left) / PER_SECOND)
        self._buckets[network] = (left - 1, now)
        self._buckets.move_to_end(network)
        if len(self._buckets) > ADDRESSES_MAX:
            self._buckets.popitem(last=False)
        return refusal

    def _state(self, network: str) -> tuple[float, float]:
        now = time.monotonic()
        left, at = self._buckets.get(network, (float(BURST), now))
        return min(left + (now - at) * PER_SECOND, BURST), now


def too_often(wait_s: float) -> ApiError:
    return ApiError(
        429,
        "this address has presented too many wrong keys or tokens; wait before the next attempt",
        retry_after=math.ceil(wait_s),
    )

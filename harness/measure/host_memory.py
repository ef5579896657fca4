"""The host's memory, whichever system counts it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Protocol

from harness.measure import memory_freebsd, memory_linux


class HostMemory(Protocol):
    """One reading. Two definitions of what can be had, in bytes, and the parts they are made of."""

    @property
    def to_be_had(self) -> int: ...

    @property
    def free_and_caches(self) -> int: ...

    def parts(self) -> Iterator[tuple[str, int]]:
        """Every part by the name that records use."""


def read() -> HostMemory:
    """The host's memory now."""
    return memory_freebsd.read() if sys.platform.startswith("freebsd") else memory_linux.read()

"""The host's memory, on Linux and FreeBSD."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Protocol

from harness.measure import memory_freebsd, memory_linux


class HostMemory(Protocol):
    """One reading in bytes: two definitions of available memory, and their parts."""

    @property
    def to_be_had(self) -> int: ...

    @property
    def free_and_caches(self) -> int: ...

    def parts(self) -> Iterator[tuple[str, int]]:
        """(name, bytes) of every part, with the names that records use."""


def read() -> HostMemory:
    """The host's memory now."""
    return memory_freebsd.read() if sys.platform.startswith("freebsd") else memory_linux.read()

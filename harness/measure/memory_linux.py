"""The host's memory in its parts on Linux, and when it has come to rest.

What a fleet takes of a host is the difference of two readings. Page cache of files that the fleet
maps (the checkpoint, the VMM's program) counts as free in both definitions here, because the kernel
may take it back: who wants it counted once adds the proportional shares of footprint_linux.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields

from harness.measure.system import System

_NAMES = {
    "available": "MemAvailable",
    "free": "MemFree",
    "cached": "Cached",
    "buffers": "Buffers",
    "shared": "Shmem",
    "anonymous": "AnonPages",
    "page_tables": "PageTables",
    "kernel_stacks": "KernelStack",
    "slab": "Slab",
}


@dataclass(frozen=True)
class HostMemory:
    """One reading of /proc/meminfo; bytes. `shared` is tmpfs and memfd, a part of `cached`."""

    available: int
    free: int
    cached: int
    buffers: int
    shared: int
    anonymous: int
    page_tables: int
    kernel_stacks: int
    slab: int

    @property
    def free_and_caches(self) -> int:
        """Free, cached and buffers; without what is in the cache only because it has no file."""
        return self.free + self.cached + self.buffers - self.shared

    def parts(self) -> Iterator[tuple[str, int]]:
        """Every part by the name that records use."""
        for one in fields(self):
            yield one.name.replace("_", "-"), getattr(self, one.name)
        yield "free-and-caches", self.free_and_caches


def read(system: System | None = None) -> HostMemory:
    """The host's memory now; about 0.1 ms."""
    text = (system or System()).read("/proc/meminfo") or ""
    kib = {name: int(value) for name, value in re.findall(r"^(\w+):\s+(\d+)", text, re.MULTILINE)}
    return HostMemory(**{part: kib[name] * 1024 for part, name in _NAMES.items()})

"""The host's memory on Linux.

A fleet's memory is the difference of two readings. Freed pages wait in per-CPU lists, up to a
gigabyte at times, and the kernel counts them neither as free nor as available. Both totals here
include them; else the memory of an ended fleet would be counted in the next reading. Page cache of
files that the fleet maps (the checkpoint, the VMM's program) counts as free in both definitions,
because the kernel can reclaim it. To count it once, add the PSS of footprint_linux.py.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields

from harness.measure.system import System

PAGE = os.sysconf("SC_PAGE_SIZE")
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
    """One reading, in bytes, of /proc/meminfo and, for `in_lists` (per-CPU lists), /proc/zoneinfo.

    `shared` is tmpfs and memfd, which is part of `cached`. `available` is MemAvailable.
    """

    available: int
    free: int
    cached: int
    buffers: int
    shared: int
    anonymous: int
    page_tables: int
    kernel_stacks: int
    slab: int
    in_lists: int

    @property
    def to_be_had(self) -> int:
        """MemAvailable, and the pages in per-CPU lists."""
        return self.available + self.in_lists

    @property
    def free_and_caches(self) -> int:
        """Free pages (per-CPU lists included), page cache and buffers, without tmpfs and memfd."""
        return self.free + self.in_lists + self.cached + self.buffers - self.shared

    def parts(self) -> Iterator[tuple[str, int]]:
        """(name, bytes) of every part, with the names that records use."""
        for part in fields(self):
            yield part.name.replace("_", "-"), getattr(self, part.name)
        yield "to-be-had", self.to_be_had
        yield "free-and-caches", self.free_and_caches


def read(system: System | None = None) -> HostMemory:
    """The host's memory now. Takes less than a millisecond."""
    system = system or System()
    text = system.read("/proc/meminfo") or ""
    kib = {name: int(value) for name, value in re.findall(r"^(\w+):\s+(\d+)", text, re.MULTILINE)}
    lists = re.findall(r"^\s+count:\s+(\d+)$", system.read("/proc/zoneinfo") or "", re.MULTILINE)
    return HostMemory(
        **{part: kib[name] * 1024 for part, name in _NAMES.items()},
        in_lists=sum(map(int, lists)) * PAGE,
    )

"""The host's memory in its parts on Linux, and when it has come to rest.

What a fleet takes of a host is the difference of two readings. Pages that were freed wait in lists
of the processors for their next use, a gigabyte at times, and the kernel counts them neither as
free nor as available: both totals here add them, or a fleet that ends would hide in the next one's
figure. Page cache of files that the fleet
maps (the checkpoint, the VMM's program) counts as free in both definitions here, because the kernel
may take it back: who wants it counted once adds the proportional shares of footprint_linux.py.
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
    """One reading of /proc/meminfo, and of /proc/zoneinfo for `in_lists`; bytes.

    `shared` is tmpfs and memfd, a part of `cached`. `available` is the kernel's MemAvailable.
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
        """Available, and what waits in the processors' lists."""
        return self.available + self.in_lists

    @property
    def free_and_caches(self) -> int:
        """Free (in lists too), cached and buffers; without what is in the cache only because it
        has no file."""
        return self.free + self.in_lists + self.cached + self.buffers - self.shared

    def parts(self) -> Iterator[tuple[str, int]]:
        """Every part by the name that records use."""
        for one in fields(self):
            yield one.name.replace("_", "-"), getattr(self, one.name)
        yield "to-be-had", self.to_be_had
        yield "free-and-caches", self.free_and_caches


def read(system: System | None = None) -> HostMemory:
    """The host's memory now; less than a millisecond."""
    system = system or System()
    text = system.read("/proc/meminfo") or ""
    kib = {name: int(value) for name, value in re.findall(r"^(\w+):\s+(\d+)", text, re.MULTILINE)}
    lists = re.findall(r"^\s+count:\s+(\d+)$", system.read("/proc/zoneinfo") or "", re.MULTILINE)
    return HostMemory(
        **{part: kib[name] * 1024 for part, name in _NAMES.items()},
        in_lists=sum(map(int, lists)) * PAGE,
    )

"""The host's memory in its parts on FreeBSD, from the counters that vmstat(8) reads.

Guest memory of bhyve is anonymous, so a fleet shows in what is neither free nor inactive. ZFS keeps
its own cache, which counts as wired: it is read beside, and given back by the kernel when memory
gets short, so the second definition counts it as to be had.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields

from harness.measure.system import System

_COUNTS = ("free", "inactive", "laundry", "active", "wire")
_ARC = "kstat.zfs.misc.arcstats.size"


@dataclass(frozen=True)
class HostMemory:
    """One reading, in bytes; `arc` is ZFS's cache, a part of `wire`."""

    free: int
    inactive: int
    laundry: int
    active: int
    wire: int
    arc: int

    @property
    def to_be_had(self) -> int:
        """What the kernel can give without asking ZFS."""
        return self.free + self.inactive + self.laundry

    @property
    def free_and_caches(self) -> int:
        return self.to_be_had + self.arc

    def parts(self) -> Iterator[tuple[str, int]]:
        """Every part by the name that records use."""
        for one in fields(self):
            yield one.name, getattr(self, one.name)
        yield "to-be-had", self.to_be_had
        yield "free-and-caches", self.free_and_caches


def read(system: System | None = None) -> HostMemory:
    """The host's memory now; some milliseconds, so never on a timed path."""
    names = [f"vm.stats.vm.v_{one}_count" for one in _COUNTS]
    text = (system or System()).run(["sysctl", "-i", "hw.pagesize", *names, _ARC]) or ""
    told = {name: int(value) for name, value in re.findall(r"^(\S+): (\d+)$", text, re.MULTILINE)}
    page = told["hw.pagesize"]
    counts = {name: told[key] * page for name, key in zip(_COUNTS, names, strict=True)}
    return HostMemory(**counts, arc=told.get(_ARC, 0))

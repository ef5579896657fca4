"""The host's memory on FreeBSD, from the counters that vmstat(8) reads.

bhyve's guest memory is anonymous, so it is neither free nor inactive. ZFS's cache (ARC) counts as
wired, but the kernel reclaims it under memory pressure: the second definition counts it as
available.
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
    """One reading, in bytes; `arc` is ZFS's cache, which is part of `wire`."""

    free: int
    inactive: int
    laundry: int
    active: int
    wire: int
    arc: int

    @property
    def to_be_had(self) -> int:
        """Available without reclaiming ZFS's cache."""
        return self.free + self.inactive + self.laundry

    @property
    def free_and_caches(self) -> int:
        return self.to_be_had + self.arc

    def parts(self) -> Iterator[tuple[str, int]]:
        """(name, bytes) of every part, with the names that records use."""
        for part in fields(self):
            yield part.name, getattr(self, part.name)
        yield "to-be-had", self.to_be_had
        yield "free-and-caches", self.free_and_caches


def read(system: System | None = None) -> HostMemory:
    """The host's memory now. Takes milliseconds, so it must not be on a timed path."""
    names = [f"vm.stats.vm.v_{name}_count" for name in _COUNTS]
    text = (system or System()).run(["sysctl", "-i", "hw.pagesize", *names, _ARC]) or ""
    values = {name: int(value) for name, value in re.findall(r"^(\S+): (\d+)$", text, re.MULTILINE)}
    page = values["hw.pagesize"]
    counts = {name: values[key] * page for name, key in zip(_COUNTS, names, strict=True)}
    return HostMemory(**counts, arc=values.get(_ARC, 0))

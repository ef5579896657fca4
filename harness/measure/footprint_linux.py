"""The memory of one VMM by kind of mapping, from /proc/PID/smaps.

Guest memory is recognised by the file that backs it. Proportional set size (PSS) divides every page
by the number of processes that map it, so that the sum over a fleet counts each page once; pages
merged by KSM are divided in the same way.
"""

from __future__ import annotations

import enum
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from harness.measure.system import System

_HEAD = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) (\S{4}) \S+ (\S+) (\d+) *(.*)$")
_MIB = 1 << 20
_ARENA = 64 * _MIB
"""The C library aligns the heaps of further threads to this."""
_STACK = 8 * _MIB
AVAILABLE = not sys.platform.startswith("freebsd")
"""Whether this system reports how much of its memory a process shares with others."""
KERNEL_STACK = 16384
"""Bytes of a thread's kernel stack on x86-64."""


class MappingKind(enum.StrEnum):
    """The purpose of a mapping."""

    GUEST = "guest memory"
    TRANSLATED = "translated code"
    HEAP = "heap"
    ARENA = "heaps of threads"
    STACK = "stacks"
    FILE = "program and libraries"
    ANONYMOUS = "other anonymous memory"


PAGE_TABLES, KERNEL_STACKS = "page tables", "kernel stacks"
PARTS = (*(str(kind) for kind in MappingKind), PAGE_TABLES, KERNEL_STACKS)
"""All host memory of a process: its mappings, and kernel memory allocated for it."""


@dataclass(frozen=True)
class Share:
    """Bytes of a set of mappings: PSS, private dirty, and merged by KSM."""

    pss: int = 0
    private_dirty: int = 0
    merged: int = 0

    def __add__(self, other: Share) -> Share:
        return Share(
            self.pss + other.pss,
            self.private_dirty + other.private_dirty,
            self.merged + other.merged,
        )


@dataclass(frozen=True)
class Footprint:
    """The memory of one process; `page_tables` and `kernel_stacks` are in bytes."""

    kinds: Mapping[MappingKind, Share]
    page_tables: int
    kernel_stacks: int

    @property
    def guest(self) -> Share:
        return self.kinds[MappingKind.GUEST]

    @property
    def vmm(self) -> Share:
        """Every mapping that is not guest memory."""
        return sum(
            (share for kind, share in self.kinds.items() if kind is not MappingKind.GUEST), Share()
        )

    @property
    def private(self) -> int:
        """Bytes that one more such process would take: what it shares with no other."""
        dirty = sum(share.private_dirty for share in self.kinds.values())
        return dirty + self.page_tables + self.kernel_stacks

    def part(self, name: str) -> int:
        """Bytes of one of PARTS; PSS for mappings."""
        kernel = self._of_the_kernel
        return kernel[name] if name in kernel else self.kinds[MappingKind(name)].pss

    def private_part(self, name: str) -> int:
        """Bytes of one of PARTS that are this process's alone: private and dirty for mappings."""
        kernel = self._of_the_kernel
        return kernel[name] if name in kernel else self.kinds[MappingKind(name)].private_dirty

    @property
    def _of_the_kernel(self) -> Mapping[str, int]:
        return {PAGE_TABLES: self.page_tables, KERNEL_STACKS: self.kernel_stacks}


def read(pid: int, guest_memory: str, system: System | None = None) -> Footprint | None:
    """The footprint of a process, or None when it is gone.

    `guest_memory` is a prefix of the path of the file that backs guest memory. This takes
    milliseconds of CPU, so it must not be on a timed path.
    """
    system = system or System()
    text = system.read(f"/proc/{pid}/smaps")
    status = system.read(f"/proc/{pid}/status")
    if not text or not status:
        return None
    kinds = dict.fromkeys(MappingKind, Share())
    for kind, share in _mappings(text, guest_memory):
        kinds[kind] += share
    tables, threads = _status(status, "VmPTE"), _status(status, "Threads")
    return Footprint(kinds, tables * 1024, threads * KERNEL_STACK)


def _status(text: str, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+)", text, re.MULTILINE)
    return int(found[1]) if found else 0


def _mappings(text: str, guest_memory: str) -> Iterator[tuple[MappingKind, Share]]:
    kind, kib = MappingKind.ANONYMOUS, dict[str, int]()
    guard = None
    for line in text.splitlines():
        if head := _HEAD.match(line):
            if kib:
                yield kind, _share(kib)
            kind, kib = _kind(head, guest_memory, guard), {}
            guard = head[2] if head[3] == "---p" else None
        else:
            name, _, rest = line.partition(":")
            if name in ("Pss", "Private_Dirty", "KSM"):
                kib[name] = int(rest.split()[0])
    if kib:
        yield kind, _share(kib)


def _share(kib: Mapping[str, int]) -> Share:
    return Share(*(kib.get(name, 0) * 1024 for name in ("Pss", "Private_Dirty", "KSM")))


def _kind(head: re.Match[str], guest_memory: str, guard: str | None) -> MappingKind:
    """`guard` is the end of a preceding mapping without permissions, as before a stack."""
    start, end, rights, path = int(head[1], 16), int(head[2], 16), head[3], head[6]
    if path.startswith(guest_memory):
        return MappingKind.GUEST
    if path == "[heap]":
        return MappingKind.HEAP
    if path == "[stack]":
        return MappingKind.STACK
    if path and not path.startswith("[anon"):
        return MappingKind.FILE
    if "x" in rights:
        return MappingKind.TRANSLATED
    if start % _ARENA == 0:
        return MappingKind.ARENA
    return (
        MappingKind.STACK if end - start == _STACK and guard == head[1] else MappingKind.ANONYMOUS
    )

"""The kernel's memory for one VMM, as its control group is charged for it.

A VM has memory that belongs to no mapping of its VMM: the kernel's own tables for guest memory
(those of KVM's MMU, and its reverse map where it shadows page tables), sockets, threads.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from harness.control_groups import directories_of
from harness.measure.system import System

ALL = "all"
_PARTS = {
    "kernel": ALL,
    "slab": "slab",
    "pagetables": "page tables",
    "sec_pagetables": "page tables of KVM",
    "kernel_stack": "kernel stacks",
    "vmalloc": "vmalloc",
    "percpu": "per CPU",
    "sock": "sockets",
}
"""Of memory.stat in version 2, and the names that records use."""


def read(pid: int, system: System | None = None) -> Mapping[str, int]:
    """Bytes by part; ALL is the whole. Version 1 tells only the whole.

    Empty when the process is gone, or no memory controller is mounted.
    """
    system = system or System()
    for directory in directories_of(system.read(f"/proc/{pid}/cgroup") or "", "memory"):
        text = system.read(str(Path(directory, "memory.stat"))) or ""
        found = {name: int(value) for name, value in re.findall(r"^(\w+) (\d+)$", text, re.M)}
        if "kernel" in found:
            return {part: found[name] for name, part in _PARTS.items() if name in found}
        whole = system.read(str(Path(directory, "memory.kmem.usage_in_bytes")))
        if whole:
            return {ALL: int(whole)}
    return {}

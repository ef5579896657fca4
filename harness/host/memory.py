"""The memory that this process may use, the page size that our processes use, files in memory."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import sys
from pathlib import Path

import psutil

from harness import control_groups

MEMORY_FLOOR = 1 << 30
_PR_SET_THP_DISABLE = 41
"""From Linux's prctl(2)."""


def available_memory() -> int:
    """Bytes available without swapping: the kernel's own estimate, or what the control groups of
    this process still allow, if that is less."""
    limits = control_groups.memory_limits()
    available = int(psutil.virtual_memory().available)
    return min(available, limits[1]) if limits else available


def usable_memory() -> int:
    """Bytes that this process and its children may use at most."""
    limits = control_groups.memory_limits()
    total = int(psutil.virtual_memory().total)
    return min(total, limits[0]) if limits else total


def memory_floor() -> int:
    """Bytes of memory that always stay free: MEMORY_FLOOR, and less in a small container."""
    return min(MEMORY_FLOOR, usable_memory() // 8)


def refuse_huge_pages() -> None:
    """Disable transparent huge pages for this process and its children. Does nothing off Linux.

    QEMU requests huge pages for its region of translated code, which would then take 2 MiB where a
    guest needs a few hundred KiB. Without them a guest takes 2.5 MiB less, at the same speed.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_THP_DISABLE, 1, 0, 0, 0)


def in_memory(path: Path) -> bool:
    """Whether files there lie in memory (a tmpfs): what is written to them is never paged out."""
    return _in_memory(path.stat().st_dev)


@functools.cache
def _in_memory(device: int) -> bool:
    number = f"{os.major(device)}:{os.minor(device)}"
    with contextlib.suppress(OSError):
        for line in (
            Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        ):
            mount, _, filesystem = line.partition(" - ")
            if mount.split()[2] == number:
                return filesystem.split()[0] in ("tmpfs", "ramfs")
    return False

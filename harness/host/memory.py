"""The memory that this process may use, and the page size that our processes use."""

from __future__ import annotations

import ctypes
import sys

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

"""How much memory this host has to give."""

from __future__ import annotations

import psutil


def available_memory() -> int:
    """Bytes that can be had without swapping, by the kernel's own estimate."""
    return int(psutil.virtual_memory().available)

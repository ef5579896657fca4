"""The number of CPUs that this process may use."""

from __future__ import annotations

import os


def usable() -> int:
    """At least 1. FreeBSD's Python has no affinity API; there it is the CPU count."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

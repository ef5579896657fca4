"""How many processors this process may use."""

from __future__ import annotations

import os


def usable() -> int:
    """At least one. FreeBSD's Python tells of no affinity: there it is all that there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

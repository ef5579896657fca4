"""The number of CPUs that this process may use."""

from __future__ import annotations

import os

from harness import control_groups


def ids() -> list[int]:
    """The numbers of the CPUs that this process may run on, sorted."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def usable() -> int:
    """At least 1: by affinity (which follows a cpuset), and by the quota of a control group.

    FreeBSD's Python has no affinity API; there it is the CPU count.
    """
    quota = control_groups.cpu_limit()
    return len(ids()) if quota is None else min(len(ids()), max(1, int(quota)))

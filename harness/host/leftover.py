"""One thing that a dead run has left."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Leftover:
    """One thing of a dead run: `what` is cgroup, process, settings, mount, lease, file, directory
    or half-built; on FreeBSD also what leftovers_freebsd.py names."""

    what: str
    run_id: str
    name: str

"""What a dead run has left behind."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Leftover:
    """One object of a dead run. `what` is its kind: cgroup, process, settings, mount, lease, file,
    directory or half-built, and on FreeBSD also those of leftovers_freebsd.py. `name` identifies
    it among its kind (a path, a PID); `run_id` is "?" where the run is unknown."""

    what: str
    run_id: str
    name: str

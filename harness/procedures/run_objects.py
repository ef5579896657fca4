"""What a run has on this host at a moment: everything that carries its id.

The difference between two moments is what was made in between and not ended: leaks, while the run
itself lives. What a dead run has left is another matter (harness/host/leftovers.py).
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.host import cgroups
from harness.host.file_system import entries
from harness.host.leftovers import processes
from harness.host.run import LEASE_BEGUN, Run

DEVICES = Path("/sys/class/net")
PATIENCE_S = 5.0
MOUNTS = Path("/proc/self/mountinfo")


def objects(run: Run) -> frozenset[str]:
    """What there is now: "process 12", "control group …/sb3", "mount …", "lease 4" and so on.

    Network namespaces of a run are mounts in its directory.
    """
    return frozenset(
        [*_processes(run), *_groups(run), *_mounts(run), *_files(run), *_leases(run), *_links(run)]
    )


def leaked(run: Run, before: frozenset[str]) -> Sequence[str]:
    """What is there and was not before. What is ending gets a few seconds for it."""
    deadline = time.monotonic() + PATIENCE_S
    while (left := objects(run) - before) and time.monotonic() < deadline:
        time.sleep(0.1)
    return sorted(left)


def _processes(run: Run) -> Iterator[str]:
    own = {os.getpid(), os.getppid()}
    for pid, directory in processes():
        if directory == run.directory and pid not in own and not _is_zombie(pid):
            yield f"process {pid}"


def _is_zombie(pid: int) -> bool:
    with contextlib.suppress(OSError):
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return stat.rpartition(")")[2].split()[0] in "ZX"
    return False


def _groups(run: Run) -> Iterator[str]:
    for top in cgroups.find().groups(cgroups.group_of(run)):
        for parent, directories, _ in os.walk(top):
            yield from (f"control group {parent}/{name}" for name in directories)


def _mounts(run: Run) -> Iterator[str]:
    with contextlib.suppress(OSError):
        for line in MOUNTS.read_text(encoding="utf-8").splitlines():
            point = line.split()[4].encode().decode("unicode_escape")
            if point.startswith(f"{run.directory}/"):
                yield f"mount {point}"


def _files(run: Run) -> Iterator[str]:
    yield from (f"file {entry}" for entry in entries(run.directory))


def _leases(run: Run) -> Iterator[str]:
    for lease in entries(run.leases):
        begun = lease.name.startswith(f"{LEASE_BEGUN}{run.id}.")
        with contextlib.suppress(OSError):
            if begun or lease.read_text(encoding="utf-8", errors="replace") == run.id:
                yield f"lease {lease.name}"


def _links(run: Run) -> Iterator[str]:
    with contextlib.suppress(OSError):
        yield from (f"link {link.name}" for link in DEVICES.iterdir() if run.mark in link.name)

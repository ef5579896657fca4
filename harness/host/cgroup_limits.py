"""Control groups that limit one process and what it starts: memory, processes and CPU time.

A process enters its group without being moved by cgroup.procs, which waits until every CPU has
passed through the scheduler (6 ms and more): in version 1 its only thread writes to `tasks`, in
version 2 it is born there (clone3 with CLONE_INTO_CGROUP).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import Unsupported
from harness.host import cgroups
from harness.host.run import Run

CONTROLLERS = ("memory", "pids", "cpu")
PERIOD_US = 100_000
TRIES = 5
WEIGHT = 2
"""The CPU weight of the group that holds all runs, in weights of one process or session. Beside
other work on the host, all runs together would otherwise get as much as one process."""


@dataclass(frozen=True)
class Limits:
    """Bytes of memory, page cache included; processes and threads; CPUs."""

    memory: int
    pids: int
    cpus: float


@dataclass(frozen=True)
class LimitedGroup:
    """One group: its directory in every hierarchy. `path` is the same below each."""

    path: str
    version: int
    directories: Sequence[Path]

    def open_tasks(self) -> Sequence[int]:
        """Version 1: descriptors of the files `tasks`; write "0" to each to enter."""
        if self.version != 1:
            return []
        return [os.open(each / "tasks", os.O_WRONLY | os.O_CLOEXEC) for each in self.directories]

    def open_directory(self) -> int | None:
        """Version 2: a descriptor of the group, to be born in."""
        if self.version != 2:
            return None
        return os.open(self.directories[0], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def remove(self) -> None:
        """Remove it, and end what is left in it; safe to call twice."""
        for each in self.directories:
            try:
                each.rmdir()
            except FileNotFoundError:
                continue
            except OSError:
                cgroups.find().remove(self.path)
                return


class LimitedGroups:
    """The groups of a run, `coppice-RUNTIME/RUN/NAME`, where `coppice clean` finds them."""

    def __init__(self, run: Run) -> None:
        """Raises Unsupported where this host cannot limit processes."""
        found = cgroups.find()
        absent = [name for name in CONTROLLERS if name not in found.mounts]
        if absent:
            raise Unsupported(
                f"this process may use no control group for {', '.join(absent)}",
                hint="run it as root where /sys/fs/cgroup can be written",
            )
        self.version = found.version
        self._path = cgroups.group_of(run)
        # Controllers may be mounted together, and in version 2 all are.
        self._mounts = {name: found.mounts[name] for name in CONTROLLERS}
        self._parents = [mount / self._path for mount in dict.fromkeys(self._mounts.values())]
        try:
            self._make_parents()
        except OSError as error:
            raise Unsupported(
                f"control groups cannot be made here: {error}",
                hint="run it as root where /sys/fs/cgroup can be written",
            ) from error

    def _make_parents(self) -> None:
        for _ in range(TRIES):
            with contextlib.suppress(FileNotFoundError):  # another run has just removed them
                for parent in self._parents:
                    parent.mkdir(parents=True, exist_ok=True)
                break
        if self.version == 2:
            _delegate(self._mounts["memory"], self._path)
        file, value = ("cpu.weight", 100) if self.version == 2 else ("cpu.shares", 1024)
        parent = self._mounts["cpu"] / self._path
        (parent.parent / file).write_text(str(WEIGHT * value), encoding="utf-8")

    def find(self, name: str) -> LimitedGroup:
        """A group that another process may have made."""
        directories = [parent / name for parent in self._parents]
        return LimitedGroup(f"{self._path}/{name}", self.version, directories)

    def names(self) -> Sequence[str]:
        """Every group there is, of this process or of another."""
        found = {each.name for parent in self._parents if parent.is_dir()
                 for each in parent.iterdir() if each.is_dir()}  # fmt: skip
        return sorted(found)

    def make(self, name: str, limits: Limits) -> LimitedGroup:
        """A new group. OSError when the kernel refuses it."""
        group = self.find(name)
        try:
            for directory in group.directories:
                try:
                    os.mkdir(directory)  # noqa: PTH102  (a VMM is started on the clock)
                except FileNotFoundError:  # `Cgroups.remove` takes empty parents away
                    self._make_parents()
                    directory.mkdir()
            for file, value in self._settings(group.path, limits):
                handle = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
                try:
                    os.write(handle, value)
                finally:
                    os.close(handle)
        except BaseException:
            group.remove()
            raise
        return group

    def remove(self) -> None:
        """Remove the run's groups, unless something else is in them."""
        for parent in self._parents:
            for directory in (parent, parent.parent):
                with contextlib.suppress(OSError):
                    directory.rmdir()

    def _settings(self, path: str, limits: Limits) -> Sequence[tuple[str, bytes]]:
        quota = round(limits.cpus * PERIOD_US)
        if self.version == 2:
            memory, cpu, most = "memory.max", "cpu.max", b"%d %d" % (quota, PERIOD_US)
        else:
            memory, cpu, most = "memory.limit_in_bytes", "cpu.cfs_quota_us", b"%d" % quota
        return [
            (f"{self._mounts['memory']}/{path}/{memory}", b"%d" % limits.memory),
            (f"{self._mounts['pids']}/{path}/pids.max", b"%d" % limits.pids),
            (f"{self._mounts['cpu']}/{path}/{cpu}", most),
        ]


def _delegate(mount: Path, path: str) -> None:
    """Have each group on the way to a run's hand the controllers down."""
    at = mount
    for part in ("", *path.split("/")):
        at = at / part
        (at / "cgroup.subtree_control").write_text(
            " ".join(f"+{name}" for name in CONTROLLERS), encoding="utf-8"
        )

"""This process's control groups in the file system, and the limits that they set.

In a container the root of a hierarchy's mount is often a group, not the hierarchy's root: the path
of a group, in /proc/self/cgroup, is then mapped through the mount's root, in mountinfo.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

UNLIMITED = 1 << 60
"""Version 1 writes a number like this one where it limits no memory."""
_MEMORY = ("memory.max", "memory.high", "memory.limit_in_bytes")
_CPU = ("cpu.max", "cpu.cfs_quota_us")
NOT_CONTROLLERS = ("rw", "ro", "xattr", "clone_children", "release_agent", "noprefix", "all")


@dataclass(frozen=True)
class Hierarchy:
    """A mounted hierarchy. `root` is the group that is seen at `point`; `controllers` are those of
    version 1, or named ones ("name=systemd"); `version` is 1 or 2."""

    version: int
    point: Path
    root: str
    controllers: Sequence[str]

    def directory(self, group: str) -> Path | None:
        """The directory of a group of /proc/self/cgroup; None where this mount does not show it."""
        with contextlib.suppress(ValueError):
            inner = PurePosixPath(group).relative_to(self.root)
            return None if ".." in inner.parts else self.point / inner
        return None


def hierarchies(root: Path = Path("/")) -> Sequence[Hierarchy]:
    """Every mounted hierarchy, in the order of mountinfo; none where there is no /proc."""
    found = []
    with contextlib.suppress(OSError):
        lines = (
            (root / "proc/self/mountinfo")
            .read_text(encoding="utf-8", errors="surrogateescape")
            .splitlines()
        )
        for line in (line for line in lines if " - cgroup" in line):
            left, _, right = line.partition(" - ")
            kind, _, options = right.split(" ", 2)
            if kind in ("cgroup", "cgroup2"):
                inner, point = map(_unescaped, left.split()[3:5])
                names = [
                    name.removeprefix("name=") if name.startswith("name=") else name
                    for name in options.split(",")
                    if name.partition("=")[0] not in NOT_CONTROLLERS
                ]
                version = 2 if kind == "cgroup2" else 1
                found.append(Hierarchy(version, Path(point), inner, names if version == 1 else ()))
    return found


_known = functools.lru_cache(hierarchies)
"""Mounted hierarchies stay as they are while a process lives, and limits are asked for often."""


def _unescaped(path: str) -> str:
    """mountinfo writes spaces and backslashes as octal numbers."""
    return path.replace("\\040", " ").replace("\\134", "\\")


def _own_text(root: Path) -> str:
    with contextlib.suppress(OSError):
        return (root / "proc/self/cgroup").read_text(encoding="utf-8")
    return ""


def _groups(text: str) -> Mapping[str, str]:
    """A process's group for each controller of version 1; version 2 has the key ""."""
    groups: dict[str, str] = {}
    for line in text.splitlines():
        _, names, path = line.split(":", 2)
        groups |= {name.removeprefix("name="): path for name in names.split(",")}
    return groups


def own_directory(controller: str, root: Path = Path("/")) -> Path | None:
    """The directory of this process's group for a controller of version 1, or for version 2 ("").

    None where no mount shows it: a container may see a hierarchy below its own group only.
    """
    return next(iter(_levels(_own_text(root), controller, root)), None)


def directories_of(text: str, controller: str, root: Path = Path("/")) -> Sequence[Path]:
    """The directories of the groups in a process's /proc/PID/cgroup that may hold this controller:
    version 1's, then version 2's."""
    found = (_levels(text, one, root)[:1] for one in (controller, ""))
    return [directory for each in found for directory in each]


@functools.lru_cache(64)
def _levels(text: str, controller: str, root: Path) -> Sequence[Path]:
    """The directories of the group of a process with this /proc/self/cgroup, and of those above it
    as far as they are mounted."""
    group = _groups(text).get(controller)
    if group is None:
        return ()
    for mounted in reversed(_known(root)):
        fits = mounted.version == 2 if controller == "" else controller in mounted.controllers
        directory = mounted.directory(group) if fits else None
        if directory is not None and (root / directory.relative_to("/")).is_dir():
            above = [directory, *directory.parents]
            shown = above[: above.index(mounted.point) + 1]
            return [root / level.relative_to("/") for level in shown]
    return ()


@functools.lru_cache(64)
def _files(text: str, controller: str, names: Sequence[str], root: Path) -> Sequence[Path]:
    """The files with these names at every level of version 1's hierarchy and of version 2's."""
    levels = (*_levels(text, controller, root), *_levels(text, "", root))
    return [level / name for level in levels for name in names if (level / name).exists()]


def memory_limits(root: Path = Path("/")) -> tuple[int, int] | None:
    """Bytes that this process's groups may use at most, and that they may still use, page cache
    that can be dropped included. None without a limit."""
    text = _own_text(root)
    found = []
    for file in _files(text, "memory", _MEMORY, root):
        if (most := _number(file)) is not None and most < UNLIMITED:
            found.append((most, max(most - _held(file.parent), 0)))
    for own in _levels(text, "memory", root)[:1]:
        # Version 1 also tells the limit of groups that are above the mount.
        most = _statistics(own).get("hierarchical_memory_limit", UNLIMITED)
        if most < min([UNLIMITED, *(limit for limit, _ in found)]):
            found.append((most, max(most - _held(own), 0)))
    return (min(limit for limit, _ in found), min(left for _, left in found)) if found else None


def cpu_limit(root: Path = Path("/")) -> float | None:
    """The smallest quota of this process's groups, in CPUs; None without one."""
    quotas = (_quota(file) for file in _files(_own_text(root), "cpu", _CPU, root))
    return min((quota for quota in quotas if quota is not None), default=None)


def pids_limit(root: Path = Path("/")) -> int | None:
    """The smallest limit of processes and threads of this process's groups; None without one."""
    files = _files(_own_text(root), "pids", ("pids.max",), root)
    return min((most for file in files if (most := _number(file)) is not None), default=None)


def pids_left(root: Path = Path("/")) -> int | None:
    """How many more processes and threads this process's groups allow; None without a limit."""
    files = _files(_own_text(root), "pids", ("pids.max",), root)
    left = (
        most - (_number(file.with_name("pids.current")) or 0)
        for file in files
        if (most := _number(file)) is not None
    )
    return min(left, default=None)


def _number(path: Path) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        return int(path.read_text(encoding="utf-8"))
    return None


def _held(group: Path) -> int:
    """Bytes in use, without page cache that the kernel drops when memory is short."""
    used = _number(group / "memory.current") or _number(group / "memory.usage_in_bytes") or 0
    found = _statistics(group)
    return max(used - (found.get("total_inactive_file") or found.get("inactive_file", 0)), 0)


def _statistics(group: Path) -> Mapping[str, int]:
    with contextlib.suppress(OSError, ValueError):
        lines = (
            line.split()
            for line in (group / "memory.stat").read_text(encoding="utf-8").splitlines()
        )
        return {name: int(value) for name, value in lines}
    return {}


def _quota(file: Path) -> float | None:
    """CPUs that a group may use; None without a quota."""
    with contextlib.suppress(OSError, ValueError):
        if file.name == "cpu.max":
            quota, period = file.read_text(encoding="utf-8").split()
            return int(quota) / int(period)
        period_us = _number(file.with_name("cpu.cfs_period_us"))
        quota_us = _number(file)
        return quota_us / period_us if quota_us and period_us and quota_us > 0 else None
    return None

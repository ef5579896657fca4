"""The file system of a path: its kind, its room, and whether programs on it may be started."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")
IN_MEMORY = ("tmpfs", "ramfs")
FLOOR = 1 << 30
"""Bytes of a file system that the harness leaves free; a twentieth of a smaller one."""


@dataclass(frozen=True)
class FileSystem:
    """`free` and `size` are in bytes; `kind` is "unknown" where the system does not tell."""

    kind: str
    size: int
    free: int
    executable: bool

    @property
    def in_memory(self) -> bool:
        return self.kind in IN_MEMORY

    @property
    def margin(self) -> int:
        """Bytes that stay free for others."""
        return _margin(self.size)

    def __str__(self) -> str:
        return f"{self.kind}, {self.free >> 20} MiB free"


def entries(directory: Path) -> list[Path]:
    """What is in a directory; nothing where it is missing, or is removed at this moment."""
    try:
        return list(directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def room(directory: Path) -> int:
    """Bytes that are free in a directory's file system beyond those that stay free for others: of
    all that `of` finds out, what changes."""
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize - _margin(found.f_blocks * found.f_frsize)


def _margin(size: int) -> int:
    return min(FLOOR, size // 20)


def existing(path: Path) -> Path:
    """The path, or its nearest parent that exists."""
    return next(place for place in (path, *path.parents) if place.exists())


def of(path: Path) -> FileSystem:
    """The file system of a path, which need not exist yet."""
    place = existing(path.absolute()).resolve()
    found = os.statvfs(place)
    return FileSystem(
        _kind(place),
        found.f_blocks * found.f_frsize,
        found.f_bavail * found.f_frsize,
        not found.f_flag & getattr(os, "ST_NOEXEC", 8),
    )


def _kind(place: Path) -> str:
    kind, best = "unknown", -1
    with contextlib.suppress(OSError):
        for line in MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
            left, _, right = line.partition(" - ")
            point = Path(unescaped(left.split()[4]))
            # The last of several mounts on one point is the one that is seen.
            if place.is_relative_to(point) and len(point.parts) >= best:
                kind, best = right.split()[0], len(point.parts)
    return kind


def unescaped(field: str) -> str:
    """A path of mountinfo: spaces and backslashes are written there as octal numbers."""
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(code, character)
    return field

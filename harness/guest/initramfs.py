"""A cpio archive (newc) with nothing in it that differs from one build to the next."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass

PAGE = 4096
TABLES = 3072
"""Bytes at the end of guest memory that must stay free of the archive."""


@dataclass(frozen=True)
class Entry:
    """One file, directory or symbolic link; `content` is a link's target."""

    path: str
    mode: int
    content: bytes = b""


def directory(path: str) -> Entry:
    return Entry(path, stat.S_IFDIR | 0o755)


def program(path: str, content: bytes) -> Entry:
    return Entry(path, stat.S_IFREG | 0o755, content)


def file(path: str, content: bytes) -> Entry:
    return Entry(path, stat.S_IFREG | 0o644, content)


def link(path: str, target: str) -> Entry:
    return Entry(path, stat.S_IFLNK | 0o777, target.encode())


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def archive(entries: Iterable[Entry]) -> bytes:
    """The archive of these entries, owned by root, dated 1970."""
    out = bytearray()
    for number, entry in enumerate((*entries, Entry("TRAILER!!!", 0)), start=1):
        name = entry.path.encode() + b"\0"
        fields = (number, entry.mode, 0, 0, 1, 0, len(entry.content), 0, 0, 0, 0, len(name), 0)
        header = b"070701" + b"".join(b"%08X" % value for value in fields)
        out += _padded(header + name) + _padded(entry.content)
    return bytes(out)


def clear_of_tables(data: bytes) -> bytes:
    """An archive, made longer where a microVM of QEMU's would write it over its ACPI tables.

    QEMU puts it into the last pages of memory, from the start of a page on, and the firmware has
    put the tables (about a KiB) at the very end before. What is left of the archive's last page is
    all that keeps the two apart. A kernel that reads the archive's end as a table hangs, or finds
    no timer. Zeros behind an archive mean nothing to the kernel.
    """
    used = len(data) % PAGE or PAGE
    return data if used <= PAGE - TABLES else data + bytes(PAGE - used + 4)

"""A reproducible cpio archive (newc format)."""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass

PAGE = 4096
TABLES = 3072
"""Bytes at the end of guest memory that the archive must not cover."""


@dataclass(frozen=True)
class Entry:
    """A file, directory or symbolic link; the `content` of a link is its target."""

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
    """The archive of these entries, owned by root and dated 1970."""
    out = bytearray()
    for number, entry in enumerate((*entries, Entry("TRAILER!!!", 0)), start=1):
        name = entry.path.encode() + b"\0"
        fields = (number, entry.mode, 0, 0, 1, 0, len(entry.content), 0, 0, 0, 0, len(name), 0)
        header = b"070701" + b"".join(b"%08X" % value for value in fields)
        out += _padded(header + name) + _padded(entry.content)
    return bytes(out)


def clear_of_tables(data: bytes) -> bytes:
    """The archive, padded if QEMU's microvm machine would otherwise load it over the ACPI tables.

    QEMU loads it page-aligned at the end of memory, where the firmware has already put the tables
    (about a KiB); only the unused rest of the archive's last page protects them. With overwritten
    tables, the kernel hangs or finds no timer. It ignores zeros after an archive.
    """
    used = len(data) % PAGE or PAGE
    return data if used <= PAGE - TABLES else data + bytes(PAGE - used + 4)

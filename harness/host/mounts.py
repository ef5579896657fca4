"""Mounts that a run makes for itself, and mount namespaces in which something is tried. Linux."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path

from harness.host.own_thread import in_own_thread

_NEWNS = 0x20000
_BIND, _REMOUNT, _PRIVATE, _RECURSIVE, _DETACH = 0x1000, 0x20, 1 << 18, 0x4000, 2
# What a remount must repeat: flags of statvfs(3), and of mount(2).
_KEPT = ((1, 1), (2, 2), (4, 4), (1024, 1024), (2048, 2048), (4096, 1 << 21))
_libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str | None, target: Path, kind: str | None, flags: int, data: str = "") -> None:
    """mount(2); raises OSError."""
    result = _libc.mount(
        None if source is None else os.fsencode(source), os.fsencode(target),
        None if kind is None else kind.encode(), ctypes.c_ulong(flags), data.encode() or None,
    )  # fmt: skip
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), os.fspath(target))


def bind_executable(directory: Path) -> None:
    """Mount a directory on itself so that its programs can be started, where its file system is
    mounted noexec. Raises OSError, and leaves no mount then."""
    found = os.statvfs(directory).f_flag
    flags = sum(flag for seen, flag in _KEPT if found & seen)
    mount(os.fspath(directory), directory, None, _BIND)
    try:
        mount(None, directory, None, _BIND | _REMOUNT | flags)
    except OSError:
        _libc.umount2(os.fsencode(directory), _DETACH)
        raise


def in_scratch_mounts(work: Callable[[], None]) -> None:
    """Call `work` in a thread with mounts of its own, which are gone afterwards.

    Raises what it raises, and OSError where mount namespaces are not allowed.
    """

    def there() -> None:
        if _libc.unshare(_NEWNS) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        mount(None, Path("/"), None, _PRIVATE | _RECURSIVE)
        work()

    in_own_thread(there)

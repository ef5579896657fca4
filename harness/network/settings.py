"""Settings of a network namespace in /proc/sys, also where that is mounted read-only."""

from __future__ import annotations

import errno
from pathlib import Path

from harness.errors import Unsupported
from harness.host import mounts

NET = Path("/proc/sys/net")


def set_net(setting: str, value: str) -> None:
    """Set /proc/sys/net/`setting` of the calling thread's namespace.

    A container may have /proc/sys read-only; where it may mount /proc itself, that is written.
    Raises Unsupported.
    """
    path = NET / setting
    try:
        if path.read_text(encoding="utf-8").strip() == value:
            return
        path.write_text(value, encoding="utf-8")
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        try:
            _in_own_proc(path, value)
        except OSError as last:
            raise Unsupported(
                f"{path} must be {value}, and cannot be written: {error.strerror}",
                hint=f"mount -o remount,rw /proc/sys   (or, on the host, echo {value} > {path})",
            ) from last


def _in_own_proc(path: Path, value: str) -> None:
    def write() -> None:
        mounts.mount("proc", Path("/proc"), "proc", 0)
        path.write_text(value, encoding="utf-8")

    # A new thread is in the network namespace of the one that starts it.
    mounts.in_scratch_mounts(write)

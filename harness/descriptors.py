"""This process's file descriptors: the three of standard streams, and how many more it may open."""

from __future__ import annotations

import errno
import fcntl
import os
import sys
from typing import TextIO

from harness.errors import LimitReached

STANDARD = (("stdin", os.O_RDONLY), ("stdout", os.O_WRONLY), ("stderr", os.O_WRONLY))
"""The standard streams by descriptor."""
STDIN = 0


def open_standard() -> None:
    """Let standard streams that the caller has closed be the null device.

    Otherwise the next file that is opened would get their descriptor, and what programs print would
    be written into it.
    """
    for number, (name, mode) in enumerate(STANDARD):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, mode)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, _stream(number, mode))


def _stream(number: int, mode: int) -> TextIO:
    writes = mode == os.O_WRONLY
    return open(number, "w" if writes else "r", encoding="utf-8", closefd=False)


def require(more: int) -> None:
    """Raise LimitReached unless this process may open so many more descriptors.

    Far below what a command needs, the first open that fails may be one of a library, which takes
    it for a missing module, or of the interpreter, which aborts.
    """
    taken: list[int] = []
    try:
        while len(taken) < more:
            taken.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        raise LimitReached(
            f"this command needs {more} free file descriptors, and gets {len(taken)}: "
            f"{error.strerror}",
            hint="raise the limit of file descriptors: ulimit -n 65536"
            if error.errno == errno.EMFILE
            else "raise this host's limit of open files: sysctl fs.file-max",
        ) from error
    finally:
        for descriptor in taken:
            os.close(descriptor)


def make_room(total: int) -> None:
    """Let the kernel's table have room for so many descriptors, within the limit.

    It grows with the descriptors, and a process with threads waits for all processors each time:
    some 10 ms, in the middle of a burst. The table does not shrink.
    """
    os.close(fcntl.fcntl(STDIN, fcntl.F_DUPFD_CLOEXEC, total - 1))

"""The typed error, and so the exit code, of errors that Python raises by itself.

`coppice` and the pytest plugin use it, so that a full disk has the same code in both.
"""

from __future__ import annotations

import errno
import os

from harness.errors import CoppiceError, DiskFull, LimitReached, PathError

FULL = {errno.ENOSPC, errno.EDQUOT}
UNUSABLE = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENOENT,
    errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP,
}  # fmt: skip
"""Errors of a file that the user named, or whose directory does not suit: not our defects."""


def typed(error: BaseException) -> CoppiceError | None:
    """The error of harness/errors.py that stands for this one; None for a defect."""
    if isinstance(error, CoppiceError):
        return error
    if isinstance(error, MemoryError):
        return LimitReached("this process could not get more memory")
    if isinstance(error, RuntimeError) and "start new thread" in str(error):
        return _processes("a thread")
    if not isinstance(error, OSError):
        return None
    if error.filename is None and "No usable temporary directory" in str(error.strerror):
        return PathError(
            "no directory for temporary files can be written", hint="name one that can: TMPDIR"
        )
    where = f"{_name(error)}: " if error.filename is not None else ""
    if error.errno in FULL:
        return DiskFull(f"{where}{error.strerror}", hint="free some space, or raise the quota")
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return LimitReached(
            f"{where}{error.strerror}",
            hint="raise the limit of file descriptors: ulimit -n 65536"
            if error.errno == errno.EMFILE
            else "raise this host's limit of open files: sysctl fs.file-max",
        )
    if error.errno == errno.EFBIG:
        return PathError(
            f"{where}{error.strerror}",
            hint="raise the limit of a file's size: ulimit -f unlimited",
        )
    if error.errno == errno.ENOMEM:
        return LimitReached(f"{where}{error.strerror}")
    if error.errno == errno.EAGAIN and error.filename is None:
        return _processes("a process")
    if error.errno in UNUSABLE and error.filename is not None:
        return PathError(f"{_name(error)}: {error.strerror}")
    return None


def _processes(what: str) -> CoppiceError:
    return LimitReached(
        f"this host or container starts no more processes: {what} was refused",
        hint="raise the limit: ulimit -u, or pids.max of the control group",
    )


def _name(error: OSError) -> str:
    if isinstance(error.filename, str | bytes | os.PathLike):
        return os.fsdecode(error.filename)
    return f"file descriptor {error.filename}"

"""Where records are stored: tried before a measurement, written atomically, and kept elsewhere when
that fails at the end."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from harness import paths
from harness.errors import CoppiceError, DiskFull, PathError, RecordError
from harness.failures import FULL, typed
from harness.interrupts import deferred

PARTIAL = ".half-written-"
"""Prefix of a file that is not complete yet."""
NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
"""Errors of os.link on file systems without hard links."""


def make_ready(results: Path, *below: str) -> None:
    """Make the directory of records, and try to write to it and to its directories `below` that
    exist. Raises PathError or DiskFull: to be called before anything is measured."""
    try:
        if results.is_symlink() and not results.exists():
            raise PathError(f"records cannot go to {results}: it is a link to nothing")
        results.mkdir(parents=True, exist_ok=True)
        for place in (results, *(results / name for name in below)):
            if place == results or os.path.lexists(place):
                handle, name = tempfile.mkstemp(dir=place, prefix=PARTIAL)
                try:
                    os.write(handle, bytes(4096))
                finally:
                    os.close(handle)
                    Path(name).unlink()
    except OSError as error:
        full = error.errno in FULL
        raise (DiskFull if full else PathError)(
            f"records cannot go to {results}: {error.filename or results}: {error.strerror}",
            hint="free some space, or name another directory: --results"
            if full
            else "name another directory: --results",
        ) from error


def write_atomically(target: Path, content: bytes) -> None:
    """Write a new file durably and atomically: temporary file, fsync, link, fsync of the directory.

    Signals wait until it is complete. Raises RecordError where `target` exists, and DiskFull or
    PathError.
    """
    try:
        with deferred(), _half_written(target.parent) as (handle, temporary):
            _fill(handle, content)
            _name(temporary, target)
            directory = os.open(target.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            except OSError as error:
                if error.errno != errno.EINVAL:  # a file system that cannot sync directories
                    raise
            finally:
                os.close(directory)
    except OSError as error:
        if error.errno in FULL:
            raise DiskFull(
                f"no space left to write {target}: {error.strerror}; no partial file was kept",
                hint="free some space, or choose another directory with --results",
            ) from error
        raise typed(error) or error from error


def replace_atomically(target: Path, content: bytes) -> None:
    """Give a file new content, whole or not at all. Raises OSError."""
    with deferred(), _half_written(target.parent) as (handle, temporary):
        _fill(handle, content)
        Path(temporary).replace(target)


def _fill(handle: int, content: bytes) -> None:
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
        os.fchmod(file.fileno(), 0o644)


@contextlib.contextmanager
def _half_written(directory: Path) -> Iterator[tuple[int, str]]:
    directory.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=directory, prefix=PARTIAL)
    try:
        yield handle, temporary
    finally:
        Path(temporary).unlink(missing_ok=True)


def _name(temporary: str, target: Path) -> None:
    """Give a complete file its name, which no other file may have."""
    exists = f"{target} exists already; a record is never overwritten"
    try:
        os.link(temporary, target)
    except FileExistsError as error:
        raise RecordError(exists) from error
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        if os.path.lexists(target):
            raise RecordError(exists) from error
        Path(temporary).rename(target)


def keep_elsewhere(target: Path, content: bytes, why: CoppiceError) -> CoppiceError:
    """Write to another place what could not be stored at `target`; the error to raise, which names
    that place and is of the same class as `why`."""
    for place in (paths.unstored_directory(), None):
        with contextlib.suppress(OSError, CoppiceError):
            directory = place or Path(tempfile.mkdtemp(prefix="unstored-records-"))
            kept = directory / target.parent.name / target.name
            write_atomically(kept, content)
            return type(why)(
                f"{why.args[0]}; the record is kept: {kept}",
                hint=f"once there is room, move it to {target.parent}",
            )
    return type(why)(f"{why.args[0]}; it could be kept nowhere else either", hint=why.hint)

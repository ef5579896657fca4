"""Locks on directories: they show which runs are alive, and which builds are still going on.

The kernel releases a lock when the process that holds it ends, however it ends.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from harness.errors import CoppiceError, DiskFull
from harness.host.run import LOCK
from harness.paths import cache_directory

HALF_BUILT = ".building-"
"""Prefix of a directory in the cache that is being built."""
NO_ROOM = 1 << 20
"""Bytes; with less left, a program's failure is taken to be the disk's."""


def locked(directory: Path) -> bool:
    """Whether a process holds a lock on the directory itself."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


@contextlib.contextmanager
def locking(directory: Path) -> Iterator[None]:
    """Lock a directory itself while the block runs; waits for another holder."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def half_built(target: Path) -> Iterator[Path]:
    """A temporary directory that is renamed to `target` when the block ends without an error.

    In the cache, targets are at `KIND/NAME`; leftovers.py searches no deeper. The directory is
    locked while the block runs, which shows that its builder is alive. If another builder finishes
    first, its result is kept and this one is removed. Raises DiskFull, and leaves nothing behind.
    """
    try:
        with _building(target) as directory, _full_disk_found(directory):
            yield directory
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFull(
            f"no space left for {target}; no partial result was kept", hint=half_built_hint(target)
        ) from error


@contextlib.contextmanager
def _full_disk_found(directory: Path) -> Iterator[None]:
    """Raise OSError where a program failed because the disk is full: its exit code does not say
    so, its message may not reach us, and it may have removed what it could not finish."""
    try:
        yield
    except CoppiceError as error:
        found = os.statvfs(directory)
        left = found.f_bavail * found.f_frsize
        if left < NO_ROOM or os.strerror(errno.ENOSPC) in str(error):
            raise OSError(errno.ENOSPC, str(error.args[0])) from error
        raise


def half_built_hint(target: Path) -> str:
    """What helps where a target found no room."""
    own = target.absolute().is_relative_to(cache_directory().absolute())
    return f"free some space in {target.parent}" + (
        ", or name another directory in COPPICE_CACHE" if own else ""
    )


@contextlib.contextmanager
def _building(target: Path) -> Iterator[Path]:
    target.parent.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix=HALF_BUILT, dir=target.parent))
    try:
        with locking(directory):
            yield directory
            directory.chmod(0o755)
            try:
                directory.rename(target)
            except OSError:
                if not target.exists():  # no other builder was faster
                    raise
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def abandoned(parent: Path) -> Iterator[Path]:
    """The half-built directories in a directory whose builder died."""
    for built in list(parent.glob(f"{HALF_BUILT}*")):
        with contextlib.suppress(FileNotFoundError):
            # Its builder locks it before writing into it: an empty one may be new.
            begun = any(built.iterdir()) or time.time() - built.stat().st_mtime > 5
            if begun and not locked(built):
                yield built


def is_alive(directory: Path) -> bool:
    """Whether the run of this directory is alive."""
    try:
        with (directory / LOCK).open(errors="replace", encoding="utf-8") as lock:
            # Shared: two that look at the same time do not take each other for its owner.
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            if lock.read():
                return False
    except BlockingIOError:
        return True
    except FileNotFoundError:
        pass
    # A new run has no lock file, or an empty one, at first; after 5 s it must be dead.
    try:
        return abs(time.time() - directory.stat().st_mtime) < 5
    except FileNotFoundError:
        return False


def own(directory: Path, patience_s: float | None = None) -> TextIO | None:
    """The lock of a dead run, which is ours until the file is closed; None if the run is gone.

    Waits for another holder, who may be removing the run. With `patience_s`, None after that time.
    """
    try:
        lock = (directory / LOCK).open("r+", errors="replace", encoding="utf-8")
    except FileNotFoundError:
        return None
    try:
        if _locks(lock, patience_s) and is_the_lock_of(lock, directory):
            return lock
    except BaseException:
        lock.close()
        raise
    lock.close()
    return None


def _locks(lock: TextIO, patience_s: float | None) -> bool:
    if patience_s is None:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return True
    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.001)
        else:
            return True


def is_the_lock_of(lock: TextIO, directory: Path) -> bool:
    """Whether the file is still there: its run may have been removed while we waited for it."""
    try:
        return os.path.samestat(os.fstat(lock.fileno()), (directory / LOCK).stat())
    except FileNotFoundError:
        return False

"""Locks on directories: which run lives, and who is still building what.

A lock goes away with the process that holds it, however that ends.
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

from harness.errors import DiskFull
from harness.host.run import LOCK

HALF_BUILT = ".building-"
"""Prefix of a directory in the cache that is being built."""


def locked(directory: Path) -> bool:
    """Whether somebody holds a lock on the directory itself."""
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
    """Hold a lock on a directory itself, until the block ends or this process does."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def half_built(target: Path) -> Iterator[Path]:
    """A directory to build in that becomes `target` in one step when the block ends well.

    In the cache, targets are `KIND/NAME`: no deeper are the directories of dead builders looked
    for. It is locked while it is built in, so that a dead builder's is told from a living one's.
    When another builder was first, its result stays and this one goes. DiskFull leaves nothing
    behind.
    """
    try:
        with _building(target) as directory:
            yield directory
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFull(
            f"no room for {target}; nothing was left half-written",
            hint="free some space, or name another directory in COPPICE_CACHE",
        ) from error


@contextlib.contextmanager
def _building(target: Path) -> Iterator[Path]:
    target.parent.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix=HALF_BUILT, dir=target.parent))
    try:
        with locking(directory):
            yield directory
            directory.chmod(0o755)
            with contextlib.suppress(FileExistsError, OSError):
                directory.rename(target)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def is_alive(directory: Path) -> bool:
    """Whether the run of this directory still has its owner."""
    try:
        with (directory / LOCK).open(errors="replace") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if lock.read():
                return False
    except BlockingIOError:
        return True
    except FileNotFoundError:
        pass
    # Until a new run has its lock, the file is missing or empty; one that stays so is dead.
    try:
        return time.time() - directory.stat().st_mtime < 5
    except FileNotFoundError:
        return False

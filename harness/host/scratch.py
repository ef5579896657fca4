"""Temporary directories outside a run's directory, which `coppice clean` finds after a crash.

Some must exist before there is a run, or need a shorter path than a run's directory has. Each is
locked while it is in use: an unlocked one has lost its owner.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from harness.host.locks import locked, locking

PREFIX = "coppice-tmp-"
"""Short, because the path of a Unix socket in such a directory is limited to about 100 bytes."""


@contextlib.contextmanager
def temporary_directory(mode: int = 0o700) -> Iterator[Path]:
    """A directory in TMPDIR (else /tmp), removed when the block ends."""
    directory = Path(tempfile.mkdtemp(prefix=PREFIX))
    try:
        with locking(directory):
            directory.chmod(mode)
            yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def abandoned() -> Iterator[Path]:
    """Directories of this user in TMPDIR and in /tmp whose owners have died."""
    for parent in sorted({Path(tempfile.gettempdir()), Path("/tmp")}):
        for directory in sorted(parent.glob(f"{PREFIX}*")):
            with contextlib.suppress(OSError):  # its owner removes it
                status = directory.lstat()
                # Its owner locks it right after making it: a new one may not be locked yet.
                new = abs(time.time() - status.st_mtime) < 5
                if directory.is_symlink() or status.st_uid != os.geteuid() or new:
                    continue
                if not locked(directory):
                    yield directory

"""What a run has made at a service, on disk: so that it is deleted although the run was killed.

A file for each run, in a directory for each address; it is locked while its run lives. A creation
is noted before it is asked for, so that one whose answer was lost is known of.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.endpoints.journal_entries import Entries, read, read_dead
from harness.endpoints.settings import Endpoint
from harness.errors import CoppiceError, DiskFull, PathError
from harness.paths import state_directory

__all__ = ["Entries", "RunJournal", "dead", "directory", "drop", "mark", "opened"]

SUFFIX = ".jsonl"
OPENINGS = 1000
"""How often a journal is opened, at most, that others remove at the same time."""


def directory() -> Path:
    return state_directory() / "endpoints"


def mark(key: str) -> str:
    """Tells one key from another, and is too short to find the key by it."""
    return hashlib.sha256(b"coppice journal " + key.encode()).hexdigest()[:6]


def _of_address(address: str) -> Path:
    return directory() / re.sub(r"[^A-Za-z0-9.-]+", "-", address.partition("://")[2])[:128]


def _failed(error: OSError, path: Path, what: str, so: str = "") -> CoppiceError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    kind = DiskFull if full else PathError
    hint = "export COPPICE_STATE=DIRECTORY   (another place for it)"
    return kind(
        f"the journal {path} cannot be {what}: {error.strerror}{so}",
        hint=hint if what in ("made", "written") else None,
    )


class RunJournal:
    """The journal of a run that lives. Each note is one write, which the system keeps even if this
    process is killed."""

    def __init__(self, handle: int, path: Path, run_id: str) -> None:
        self._handle = handle
        self._size = os.fstat(handle).st_size
        self.path = path
        self.run_id = run_id

    def _put(self, line: bytes) -> None:
        """Write a line, or nothing. Raises DiskFull or PathError."""
        try:
            written = os.write(self._handle, line)
            if written < len(line):  # the disk became full on the way
                os.ftruncate(self._handle, self._size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            so = "; nothing more is made at the service"
            raise _failed(error, self.path, "written", so) from error
        self._size += len(line)

    def begun(self, endpoint: Endpoint) -> None:
        facts: dict[str, Any] = {
            "run": self.run_id, "address": endpoint.address, "name": endpoint.name,
            "key_variable": endpoint.key_variable, "key_mark": mark(endpoint.key),
            "pid": os.getpid(),
        }  # fmt: skip
        self._put(json.dumps(facts).encode() + b"\n")

    def asked(self, life_s: float) -> None:
        """A creation is about to be asked for; the service ends the sandbox after `life_s`."""
        self._put(b'{"asked": %d}\n' % (time.time() + life_s))

    def made(self, id: str) -> None:
        self._put(b'{"made": "%s"}\n' % id.encode())

    # Without the next two more is looked for at the end than there is, which does no harm; and what
    # is to be deleted must not stay because the disk is full.

    def refused(self) -> None:
        """A creation was answered so that nothing can have been made."""
        with contextlib.suppress(DiskFull, PathError):
            self._put(b'{"refused": 1}\n')

    def gone(self, id: str) -> None:
        with contextlib.suppress(DiskFull, PathError):
            self._put(b'{"gone": "%s"}\n' % id.encode())

    def entries(self) -> Entries:
        """What it says so far, although its file may have been removed meanwhile."""
        return read(self.path, self._handle)

    def drop(self) -> None:
        """Remove it: nothing of the run is left."""
        _remove(self.path)


@contextlib.contextmanager
def opened(endpoint: Endpoint, run_id: str) -> Iterator[RunJournal]:
    """The journal of a run that begins; it stays at the end until what it names is gone."""
    path = _of_address(endpoint.address) / f"{run_id}{SUFFIX}"
    try:
        handle = _locked(path)
    except OSError as error:
        raise _failed(error, path, "made") from error
    try:
        journal = RunJournal(handle, path, run_id)
        journal.begun(endpoint)
        yield journal
    finally:
        os.close(handle)


def _locked(path: Path) -> int:
    """Open a journal and lock it. Before it is locked, it is a dead run's for all others, who may
    remove it, and its directory with it."""
    for _ in range(OPENINGS):
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            handle = os.open(path, flags, 0o600)
        except FileNotFoundError:
            continue
        except FileExistsError:
            if path.parent.exists() and not path.parent.is_dir():
                raise
            continue
        fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle).st_nlink:
            return handle
        os.close(handle)
    raise FileNotFoundError(errno.ENOENT, "others remove it at once", str(path))


def dead(address: str | None = None) -> Sequence[Entries]:
    """The journals of runs that have ended and left something, at an address or at all."""
    places = [_of_address(address)] if address else _inside(directory(), "*/")
    found = []
    for path in (path for place in places for path in _inside(place, f"*{SUFFIX}")):
        try:
            entries = read_dead(path)
        except OSError as error:
            raise _failed(error, path, "read") from error
        # Addresses that differ in a sign alone share a directory.
        if entries and (not address or entries.address in ("", address)):
            found.append(entries)
    return found


def _inside(place: Path, pattern: str) -> Sequence[Path]:
    """What a directory holds; nothing if another removes it meanwhile."""
    with contextlib.suppress(FileNotFoundError):
        return sorted(place.glob(pattern))
    return []


def drop(path: Path) -> None:
    """Remove the journal of a dead run, of which nothing is left; not if a run has it now."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(file.fileno()).st_nlink:
                _remove(path)
    except (FileNotFoundError, BlockingIOError):
        return
    except OSError as error:
        raise _failed(error, path, "removed") from error


def _remove(path: Path) -> None:
    """Remove a journal that the caller has locked, and the directories that are then empty."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise _failed(error, path, "removed") from error
    for parent in (path.parent, path.parent.parent):
        with contextlib.suppress(OSError):  # not empty, or gone already
            parent.rmdir()

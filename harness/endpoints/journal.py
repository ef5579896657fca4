"""What a run has made at a service, on disk: so that it is deleted although the run was killed.

A file for each run, in a directory for each address; it is locked while its run lives. A creation
is noted before it is asked for, so that one whose answer was lost is known of.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.endpoints.settings import Endpoint
from harness.paths import state_directory

SUFFIX = ".jsonl"


def directory() -> Path:
    return state_directory() / "endpoints"


def mark(key: str) -> str:
    """Tells one key from another, and is too short to find the key by it."""
    return hashlib.sha256(b"coppice journal " + key.encode()).hexdigest()[:6]


def _of_address(address: str) -> Path:
    return directory() / re.sub(r"[^A-Za-z0-9.-]+", "-", address.partition("://")[2])[:128]


class RunJournal:
    """The journal of a run that lives. Each note is one write, which the system keeps even if this
    process is killed."""

    def __init__(self, handle: int, path: Path, run_id: str) -> None:
        self._handle = handle
        self.path = path
        self.run_id = run_id

    def _note(self, **facts: Any) -> None:
        os.write(self._handle, json.dumps(facts).encode() + b"\n")

    def begun(self, endpoint: Endpoint) -> None:
        self._note(
            run=self.run_id, address=endpoint.address, name=endpoint.name,
            key_variable=endpoint.key_variable, key_mark=mark(endpoint.key), pid=os.getpid(),
        )  # fmt: skip

    def asked(self, life_s: float) -> None:
        """A creation is about to be asked for; the service ends the sandbox after `life_s`."""
        os.write(self._handle, b'{"asked": %d}\n' % (time.time() + life_s))

    def refused(self) -> None:
        """A creation was answered so that nothing can have been made."""
        os.write(self._handle, b'{"refused": 1}\n')

    def made(self, id: str) -> None:
        os.write(self._handle, b'{"made": "%s"}\n' % id.encode())

    def gone(self, id: str) -> None:
        os.write(self._handle, b'{"gone": "%s"}\n' % id.encode())


@dataclass(frozen=True)
class Entries:
    """What a journal says: the sandboxes that were not deleted, how many were made at all, how many
    creations had no valid answer, and when (UTC, seconds) the last sandbox ends by itself."""

    path: Path
    run_id: str
    address: str
    name: str
    key_variable: str
    key_mark: str
    alive: Sequence[str]
    made: int
    lost: int
    until: float


def read(path: Path) -> Entries:
    """A journal, of which the last line may be half-written."""
    about: dict[str, Any] = {}
    alive: dict[str, None] = {}
    asked = refused = made = 0
    until = 0.0
    for line in path.read_bytes().splitlines():
        try:
            note = json.loads(line)
        except ValueError:
            continue
        if "run" in note:
            about = note
        elif "asked" in note:
            asked, until = asked + 1, max(until, float(note["asked"]))
        elif "refused" in note:
            refused += 1
        elif "made" in note:
            made += 1
            alive[str(note["made"])] = None
        elif "gone" in note:
            alive.pop(str(note["gone"]), None)
    return Entries(
        path, str(about.get("run", path.stem)), str(about.get("address", "")),
        str(about.get("name", "")), str(about.get("key_variable", "")),
        str(about.get("key_mark", "")), list(alive), made, max(asked - refused - made, 0), until,
    )  # fmt: skip


@contextlib.contextmanager
def opened(endpoint: Endpoint, run_id: str) -> Iterator[RunJournal]:
    """The journal of a run that begins; it stays at the end until what it names is gone."""
    path = _of_address(endpoint.address) / f"{run_id}{SUFFIX}"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        journal = RunJournal(handle, path, run_id)
        journal.begun(endpoint)
        yield journal
    finally:
        os.close(handle)


def dead(address: str | None = None) -> Sequence[Entries]:
    """The journals of runs that have ended and left something, at an address or at all."""
    places = [_of_address(address)] if address else sorted(directory().glob("*/"))
    return [
        read(path)
        for place in places
        for path in sorted(place.glob(f"*{SUFFIX}"))
        if not _lives(path)
    ]


def drop(path: Path) -> None:
    """Remove a journal of which nothing is left."""
    path.unlink(missing_ok=True)
    for parent in (path.parent, path.parent.parent):
        with contextlib.suppress(OSError):  # not empty, or gone already
            parent.rmdir()


def _lives(path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False

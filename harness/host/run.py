"""One run of the harness: its id, its folder, and the lock that tells whether it still lives.

Everything a run creates is marked with its id: processes carry it in their environment, files
stand in its folder, addresses in lease files that name it. The folder holds a lock file that the
run keeps locked, so a run that was killed is told from one that lives by trying that lock.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness.errors import DiskFull

VARIABLE = "COPPICE_RUN"
"""In the environment of every process that a run starts: the run's folder."""
OURS = "coppice-"
"""Begins the name of whatever a run makes outside of its folder."""
LOCK = "owner.lock"
JOURNAL = "journal.jsonl"
HALF_BUILT = ".building-"
"""Prefix of a folder in the cache that is being built."""
LEASE_BEGUN = "."
"""Prefix of a file that is about to become a lease; its run's id follows, and a dot."""


def runtime_folder() -> Path:
    """Where runs of this user have their folders; gone after a reboot, like what they hold."""
    named = os.environ.get("COPPICE_RUNTIME")
    if named:
        # Processes and mounts name it, and are found by that name: it must not depend on who asks.
        return Path(named).resolve()
    for place in ("/run", "/var/run"):  # FreeBSD has the second alone
        if os.geteuid() == 0 and os.access(place, os.W_OK):
            return Path(place, "coppice")
    user = os.environ.get("XDG_RUNTIME_DIR")
    return (
        Path(user) / "coppice" if user else Path(tempfile.gettempdir()) / f"coppice-{os.getuid()}"
    )


def cache_folder() -> Path:
    """Where images and checkpoints are kept between runs, and across reboots."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("COPPICE_CACHE") or Path(base) / "coppice")


def new_run_id() -> str:
    """UTC time to the second and eight random hexadecimal digits; sorts by time."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"


@dataclass(frozen=True)
class Run:
    """A living run. `folder` is its own; `leases` is shared with every other run.

    `at_end` closes what lives as long as the run, such as a daemon that all its sandboxes share.
    """

    id: str
    folder: Path
    leases: Path
    at_end: contextlib.ExitStack = field(default_factory=contextlib.ExitStack, compare=False)

    @property
    def environment(self) -> Mapping[str, str]:
        """The environment of every process of this run: small, and marked."""
        kept = ("PATH", "HOME", "LANG", "TERM")
        return {name: os.environ[name] for name in kept if name in os.environ} | {
            VARIABLE: str(self.folder)
        }

    @property
    def mark(self) -> str:
        """What this run's objects in a kernel are called by, where names must be short."""
        return self.id[-8:]

    def object_name(self, id: str) -> str:
        """The name of a jail, virtual machine or data set of this run (29 bytes)."""
        return f"{OURS}{self.mark}-{id}"

    def note(self, event: str, **facts: Any) -> None:
        """Add a line to the run's journal: what was done, with monotonic and UTC times."""
        line = {"at": time.monotonic(), "utc": datetime.now(UTC).isoformat(), "event": event}
        with contextlib.suppress(FileNotFoundError), (self.folder / JOURNAL).open("a") as file:
            file.write(json.dumps(line | facts, default=str) + "\n")


@contextlib.contextmanager
def open_run(runtime: Path | None = None, goes_on: str | None = None) -> Iterator[Run]:
    """A new run. Whoever made something removes it; its folder goes away with the run.

    What dead runs have left is reclaimed first; what an interrupt kept this one's makers from
    removing, last. The dead run `goes_on`, where anything is left of it, is taken over and not
    reclaimed: its processes are this one's then.
    """
    from harness.host.leftovers import reclaim  # it needs this module's names

    runtime = runtime or runtime_folder()
    if goes_on and (runtime / goes_on).is_dir():
        id = goes_on
    else:
        reclaim(runtime)
        id = new_run_id()
        (runtime / id).mkdir(parents=True)
    run = Run(id, runtime / id, runtime / "leases")
    try:
        with (run.folder / LOCK).open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            lock.write(str(os.getpid()))
            lock.flush()
            if id == goes_on:
                reclaim(runtime)
            with run.at_end:
                yield run
    finally:
        reclaim(runtime)


def locked(folder: Path) -> bool:
    """Whether somebody holds a lock on the folder itself."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


@contextlib.contextmanager
def locking(folder: Path) -> Iterator[None]:
    """Hold a lock on a folder itself, until the block ends or this process does."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def half_built(target: Path) -> Iterator[Path]:
    """A folder to build in that becomes `target` in one step when the block ends well.

    In the cache, targets are `KIND/NAME`: no deeper are the folders of dead builders looked for.
    It is locked while it is built in, so that a dead builder's is told from a living one's. When
    another builder was first, its result stays and this one goes. DiskFull leaves nothing behind.
    """
    try:
        with _building(target) as folder:
            yield folder
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DiskFull(
            f"no room for {target}; nothing was left half-written",
            hint="free some space, or name another folder in COPPICE_CACHE",
        ) from error


@contextlib.contextmanager
def _building(target: Path) -> Iterator[Path]:
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=HALF_BUILT, dir=target.parent))
    try:
        with locking(folder):
            yield folder
            folder.chmod(0o755)
            with contextlib.suppress(FileExistsError, OSError):
                folder.rename(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def lives(folder: Path) -> bool:
    """Whether the run of this folder still has its owner."""
    try:
        with (folder / LOCK).open(errors="replace") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if lock.read():
                return False
    except BlockingIOError:
        return True
    except FileNotFoundError:
        pass
    # Until a new run has its lock, the file is missing or empty; one that stays so is dead.
    try:
        return time.time() - folder.stat().st_mtime < 5
    except FileNotFoundError:
        return False

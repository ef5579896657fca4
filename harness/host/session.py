"""Opens and closes a run; leftovers of dead runs are removed before and after."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from harness.errors import PathError
from harness.host.leftovers import reclaim
from harness.host.run import LOCK, Run, new_run_id
from harness.host.runtime_place import make_executable
from harness.paths import runtime_directory


@contextlib.contextmanager
def open_run(runtime: Path | None = None, resume_id: str | None = None) -> Iterator[Run]:
    """A new run, whose directory is removed at the end. Callers remove what else they create.

    Leftovers of dead runs are removed first, and at the end those of this run, in case an
    interrupt kept its owners from removing them. If the directory of the dead run `resume_id`
    exists, that run is continued instead, and its processes are kept.
    """
    runtime = runtime or runtime_directory()
    _refuse_foreign(runtime)
    id = resume_id if resume_id and (runtime / resume_id).is_dir() else None
    try:  # from before anything is there: a signal may interrupt at any place
        if id is None:
            reclaim(runtime)
            id = new_run_id()
            (runtime / id).mkdir(parents=True)
            make_executable(runtime / id)
        run = Run(id, runtime / id, runtime / "leases")
        with (run.directory / LOCK).open("a", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            lock.write(str(os.getpid()))
            lock.flush()
            if id == resume_id:
                reclaim(runtime)
            with run.at_end:
                yield run
    finally:
        reclaim(runtime)


@contextlib.contextmanager
def trial_run() -> Iterator[Run]:
    """A run for a moment, to try something out: leftovers of others stay."""
    runtime, id = runtime_directory(), new_run_id()
    _refuse_foreign(runtime)
    run = Run(id, runtime / id, runtime / "leases")
    run.directory.mkdir(parents=True)
    try:
        with (run.directory / LOCK).open("a", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with run.at_end:
                yield run
    finally:
        shutil.rmtree(run.directory, ignore_errors=True)


def _refuse_foreign(runtime: Path) -> None:
    """Raise PathError where another user made the directory of our runs: in /tmp anybody can, and
    could then replace what a run keeps there."""
    with contextlib.suppress(FileNotFoundError):
        owner = runtime.lstat().st_uid
        if owner not in (os.geteuid(), 0):
            raise PathError(
                f"{runtime} belongs to the user {owner}: runs are not kept there",
                hint="set COPPICE_RUNTIME to a directory of your own",
            )

"""Opens and closes a run; leftovers of dead runs are removed before and after."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from harness.errors import PathError
from harness.host.dead_runs import waiting_for
from harness.host.leftovers import reclaim
from harness.host.locks import is_the_lock_of, own
from harness.host.run import LOCK, STATE, Run, new_run_id
from harness.host.runtime_place import make_executable
from harness.paths import runtime_directory


@contextlib.contextmanager
def open_run(runtime: Path | None = None, state: Path | None = None) -> Iterator[Run]:
    """A new run, whose directory is removed at the end. Callers remove what else they create.

    Leftovers of dead runs are removed first, and at the end those of this run, in case an
    interrupt kept its owners from removing them. If a dead run waits for a gateway with this
    `state` (dead_runs.py), it is taken over instead, and its processes are kept; no other gateway
    may use the state meanwhile. A run that goes on when the block ends is left as a crash would
    leave it.
    """
    runtime = runtime or runtime_directory()
    _refuse_foreign(runtime)
    try:  # from before anything is there: a signal may interrupt at any place
        taken = _take_over(runtime, state) if state else None
        reclaim(runtime)
        directory, lock = taken or _begin(runtime)
        run = Run(directory.name, directory, runtime / "leases", taken_over=taken is not None)
        with lock, run.at_end:
            try:
                yield run
            finally:
                if run.goes_on:
                    run.at_end.pop_all()
    finally:
        reclaim(runtime)


def _take_over(runtime: Path, state: Path) -> tuple[Path, TextIO] | None:
    """The newest run that waits for this state, and its lock. None waits for it afterwards."""
    taken = None
    for directory in waiting_for(runtime, state):
        if taken is None and (lock := own(directory)):
            taken = directory, lock
        else:  # a later one has replaced it: nothing refers to its sandboxes
            (directory / STATE).unlink(missing_ok=True)
    return taken


def _begin(runtime: Path) -> tuple[Path, TextIO]:
    while True:
        directory = runtime / new_run_id()
        directory.mkdir(parents=True)
        make_executable(directory)
        with contextlib.suppress(FileNotFoundError):
            lock = (directory / LOCK).open("a", encoding="utf-8")
            fcntl.flock(lock, fcntl.LOCK_EX)
            # A process that was stopped for seconds meanwhile was taken for dead.
            if is_the_lock_of(lock, directory):
                lock.write(str(os.getpid()))
                lock.flush()
                return directory, lock
            lock.close()


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

"""A run from its beginning to its end: what dead runs have left goes away first and last."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from harness.host.leftovers import reclaim
from harness.host.run import LOCK, Run, new_run_id
from harness.paths import runtime_directory


@contextlib.contextmanager
def open_run(runtime: Path | None = None, resume_id: str | None = None) -> Iterator[Run]:
    """A new run. Whoever made something removes it; its directory goes away with the run.

    What dead runs have left is reclaimed first; what an interrupt kept this one's makers from
    removing, last. The dead run `resume_id`, where anything is left of it, is taken over and not
    reclaimed: its processes are this one's then.
    """
    runtime = runtime or runtime_directory()
    if resume_id and (runtime / resume_id).is_dir():
        id = resume_id
    else:
        reclaim(runtime)
        id = new_run_id()
        (runtime / id).mkdir(parents=True)
    run = Run(id, runtime / id, runtime / "leases")
    try:
        with (run.directory / LOCK).open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            lock.write(str(os.getpid()))
            lock.flush()
            if id == resume_id:
                reclaim(runtime)
            with run.at_end:
                yield run
    finally:
        reclaim(runtime)

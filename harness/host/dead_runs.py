"""Which runs are dead, and which of them wait for a successor.

A gateway that is killed, or fails to start again, leaves its sandboxes running. Its run is dead
but waits: the next gateway with the same state takes it over. Other runs leave it alone;
`coppice clean` removes it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

from harness.host.file_system import entries
from harness.host.locks import is_alive, own
from harness.host.run import DATABASE, STATE

PATIENCE_S = 1.0
"""For others who only look whether a run is alive. Its owner is seen before."""


def state_of(directory: Path, root: Path = Path("/")) -> Path | None:
    """The directory of the persistent state for which a run waits, or None. Both paths are as in
    the file system `root`."""
    try:
        text = (root / directory.relative_to("/") / STATE).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    state = Path(text)
    if not state.is_absolute() or not (root / state.relative_to("/") / DATABASE).is_file():
        return None
    return state


def waiting_for(runtime: Path, state: Path) -> Sequence[Path]:
    """The directories of the runs that wait for a gateway with this state, newest first.

    The caller keeps other gateways from using the state: a run that is not dead yet is about to
    be, or is being removed.
    """
    return sorted(
        (each for each, its in _with_state(runtime).items() if its == state), reverse=True
    )


def waiting(runtime: Path) -> Mapping[Path, Path]:
    """The directories of dead runs that wait, each with that of the state for which it waits."""
    found = _with_state(runtime)
    return {directory: state for directory, state in found.items() if not is_alive(directory)}


def _with_state(runtime: Path) -> Mapping[Path, Path]:
    return {entry: state for entry in entries(runtime) if (state := state_of(entry))}


class DeadRuns:
    """The directories of dead runs: `directory in dead`. With `waiting`, those that wait too.

    With `locks`, each that was found is locked until that is closed: no other process takes it
    over while it is removed.
    """

    def __init__(self, *, waiting: bool = False, locks: contextlib.ExitStack | None = None) -> None:
        self._waiting = waiting
        self._locks = locks
        self._locked: dict[Path, TextIO] = {}

    def __contains__(self, directory: Path) -> bool:
        if directory in self._locked:
            return True
        if is_alive(directory) or not (self._waiting or state_of(directory) is None):
            return False
        if self._locks is not None and directory.is_dir():
            lock = own(directory, PATIENCE_S)
            if lock:
                self._locked[directory] = self._locks.enter_context(lock)
            # Without a lock it is a run that died while it began, or one that was half removed.
            return lock is not None or not is_alive(directory)
        return True

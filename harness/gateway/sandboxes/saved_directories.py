"""The directories of saved sandboxes: of pauses, snapshots and forks."""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from harness.gateway.sandboxes.store import Snapshot, StoredSandbox


class SavedDirectories:
    """Those of a gateway. A directory stays while it is in use, and while a sandbox or a snapshot
    refers to it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._in_use: set[Path] = set()

    @contextlib.contextmanager
    def new(self, prefix: str) -> Iterator[Path]:
        """A path for a new directory, in use until the block ends."""
        directory = self._directory / f"{prefix}-{secrets.token_hex(8)}"
        self._in_use.add(directory)
        try:
            yield directory
        finally:
            self._in_use.discard(directory)

    def unneeded(
        self, sandboxes: Iterable[StoredSandbox], snapshots: Iterable[Snapshot]
    ) -> Sequence[Path]:
        """The directories that nothing refers to."""
        needed = {*self._in_use}
        for stored in sandboxes:
            for path in (stored.saved, stored.came_from):
                needed |= {Path(path), Path(path).parent} if path else set()
        needed |= {Path(snapshot.directory) for snapshot in snapshots}
        return [
            directory
            for directory in self._directory.iterdir()
            if directory not in needed and directory.name[0] != "."
        ]


def remove_all(directories: Iterable[Path]) -> None:
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)

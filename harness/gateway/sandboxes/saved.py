"""The directories of sandboxes that were saved: pauses, snapshots and forks."""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from harness.gateway.sandboxes.store import Record, Snapshot


class Saved:
    """Of one gateway. A directory is kept while it is written, and while anybody's record names
    it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._busy: set[Path] = set()

    @contextlib.contextmanager
    def begun(self, what: str) -> Iterator[Path]:
        """A place for one more, which is not there yet; needed by nobody else after the block."""
        directory = self._directory / f"{what}-{secrets.token_hex(8)}"
        self._busy.add(directory)
        try:
            yield directory
        finally:
            self._busy.discard(directory)

    def unneeded(self, records: Iterable[Record], snapshots: Iterable[Snapshot]) -> Sequence[Path]:
        """Those that no sandbox and no snapshot needs any more."""
        needed = {*self._busy}
        for one in records:
            for path in (one.saved, one.came_from):
                needed |= {Path(path), Path(path).parent} if path else set()
        needed |= {Path(one.directory) for one in snapshots}
        return [
            one for one in self._directory.iterdir() if one not in needed and one.name[0] != "."
        ]


def remove_all(directories: Iterable[Path]) -> None:
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)

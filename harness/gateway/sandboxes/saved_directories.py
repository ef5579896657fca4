"""The directories of saved sandboxes: of pauses, snapshots and forks."""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from harness.gateway.sandboxes.store import Snapshot, StoredSandbox
from harness.host.locks import abandoned

SET_ASIDE = ".lost-"


class SavedDirectories:
    """Those of a gateway. A directory stays while it is in use, and while a sandbox or a snapshot
    refers to it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._in_use: Counter[Path] = Counter()
        self._released = False
        """Whether one is not in use any more that was when the unneeded ones were last found."""

    @contextlib.contextmanager
    def new(self, prefix: str) -> Iterator[Path]:
        """A path for a new directory, in use until the block ends."""
        directory = self._directory / f"{prefix}-{secrets.token_hex(8)}"
        with self.using(directory):
            yield directory

    @contextlib.contextmanager
    def using(self, directory: Path) -> Iterator[None]:
        """Keep a directory until the block ends, even if what refers to it goes."""
        self._in_use[directory] += 1
        try:
            yield
        finally:
            self._in_use[directory] -= 1
            self._released = True

    def concerns(self, gone: StoredSandbox) -> bool:
        """Whether a directory may have become unneeded with the end of a sandbox."""
        prefix = f"{self._directory}/"
        return self._released or any(
            path.startswith(prefix) for path in (gone.saved, gone.saving, gone.came_from)
        )

    def unneeded(
        self, sandboxes: Iterable[StoredSandbox], snapshots: Iterable[Snapshot]
    ) -> Sequence[Path]:
        """The directories that nothing refers to."""
        self._released = False
        needed = {directory for directory, users in self._in_use.items() if users}
        needed |= _referred_to(sandboxes, snapshots)
        return [directory for directory in self.entries() if directory not in needed]

    def entries(self) -> Sequence[Path]:
        """All finished ones, needed or not."""
        return [entry for entry in self._directory.iterdir() if entry.name[0] != "."]

    def set_aside(self, directories: Iterable[Path]) -> Sequence[Path]:
        """Keep directories that the database may have forgotten; they are not used any more, unless
        its rows are repaired (`put_back`)."""
        kept = []
        for directory in directories:
            kept.append(directory.with_name(f"{SET_ASIDE}{directory.name}"))
            directory.rename(kept[-1])
        return kept

    def put_back(
        self, sandboxes: Iterable[StoredSandbox], snapshots: Iterable[Snapshot]
    ) -> Sequence[Path]:
        """Give their names back to directories that were set aside and are referred to again."""
        back = []
        for directory in sorted(_referred_to(sandboxes, snapshots)):
            aside = self._directory / f"{SET_ASIDE}{directory.name}"
            # Where both are there, the one with its own name was saved later.
            own = directory.parent == self._directory and not directory.exists()
            if own and aside.is_dir():
                aside.rename(directory)
                back.append(directory)
        return back

    def remove_unfinished(self) -> None:
        """Remove what a killed gateway had begun to save."""
        remove_all(abandoned(self._directory))


def _referred_to(sandboxes: Iterable[StoredSandbox], snapshots: Iterable[Snapshot]) -> set[Path]:
    found = {Path(snapshot.directory) for snapshot in snapshots}
    for stored in sandboxes:
        for path in (stored.saved, stored.saving, stored.came_from):
            found |= {Path(path), Path(path).parent} if path else set()
    return found


def remove_all(directories: Iterable[Path]) -> None:
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)

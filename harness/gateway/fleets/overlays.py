"""The files of a gateway's microVMs: what each has written to its disk, over the shared image.

On ext4 without a journal, a file that is created soon after others were removed costs milliseconds
of a search among them. So the directory of a sandbox that has ended is emptied and used again.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from harness.gateway.fleets import disk, saved_vm
from harness.gateway.fleets.disk import BaseDisk
from harness.host.disk_place import DiskPlace

FILE = "disk"
SANDBOX = "sandbox-"
"""Prefix of the directory of a sandbox's own files."""
SPARE, SPARES = "spare-", 256
"""Prefix of the directories of sandboxes that have ended, and how many are kept for others."""


@dataclass(frozen=True)
class Overlays:
    """The overlays over one image, each by its sandbox's id. `spares` are empty directories."""

    place: DiskPlace
    base: BaseDisk
    spares: list[Path] = field(default_factory=list, compare=False)

    def file(self, id: str) -> Path:
        return self._directory(id) / FILE

    def _directory(self, id: str) -> Path:
        return self.place.directory / f"{SANDBOX}{id}"

    def new(self, id: str, source: Path | None = None) -> Path:
        """The overlay of a new sandbox, empty or a copy of `source`, with the room of a whole disk.

        After DiskFull there is no directory.
        """
        self.place.require_room()
        directory = self._directory(id)
        try:
            self.spares.pop().rename(directory)
        except (IndexError, OSError):
            directory.mkdir()
        overlay = directory / FILE
        try:
            if source is None:
                disk.create_overlay(self.base, overlay)
                self.place.reserve(overlay)
            else:
                # Reserved before it is written. Otherwise ext4 writes it to the disk at once, since
                # it was emptied before, and warns when its blocks change meanwhile.
                overlay.touch()
                self.place.reserve(overlay)
                saved_vm.fill_sparse(source, overlay)
        except BaseException:
            self.remove(id)
            raise
        return overlay

    def set_aside(self, id: str) -> None:
        """Empty the directory of a sandbox that has ended, for another; safe to call twice."""
        directory, spare = self._directory(id), self.place.directory / f"{SPARE}{id}"
        try:
            os.truncate(directory / FILE, 0)
            if len(self.spares) < SPARES:
                directory.rename(spare)
                self.spares.append(spare)
                return
        except OSError:
            pass  # it is gone already, or was never complete
        self.remove(id)

    def remove(self, id: str) -> None:
        shutil.rmtree(self._directory(id), ignore_errors=True)

    def sweep(self, kept: Collection[str]) -> None:
        """Remove what another gateway has left, except the files of these sandboxes."""
        for directory in self.place.directory.glob(f"{SANDBOX}*"):
            if directory.name.removeprefix(SANDBOX) not in kept:
                shutil.rmtree(directory, ignore_errors=True)
        for directory in self.place.directory.glob(f"{SPARE}*"):
            shutil.rmtree(directory, ignore_errors=True)

"""Where the disks of a gateway's sandboxes lie, and the room that is reserved for them.

Disks lie in the run's directory. Where that is in memory, as /run is on many hosts, they lie in the
cache instead, in a directory of the run; COPPICE_DISKS names another place. The room of a disk is
reserved in the file system itself before its sandbox exists, so a guest that fills its disk takes
nothing from the others.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.errors import DiskFull, PathError
from harness.host import file_system
from harness.host.boot import boot_id
from harness.host.cgroups import parent_of
from harness.host.dead_runs import DeadRuns
from harness.host.run import Run
from harness.paths import cache_directory

VARIABLE = "COPPICE_DISKS"
IN_CACHE = "disks-of-runs"
OWNER = "owner.json"
"""In a run's directory of disks: the runtime directory and the boot that it belongs to."""
_KEEP_SIZE = 1
"""From Linux's fallocate(2): reserve beyond the end of the file, and leave its length."""
NEW_S = 5
"""Seconds after which the run that made a directory has written `OWNER`, or is dead."""
RUN_ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{8}")
_libc = ctypes.CDLL(None, use_errno=True)


def chosen(runtime: Path) -> Path:
    """The parent of runs' disks, for runs of this runtime directory, which may be the same."""
    if named := os.environ.get(VARIABLE):
        return Path(named).resolve()
    return cache_directory() / IN_CACHE if file_system.of(runtime).in_memory else runtime


@dataclass(frozen=True)
class DiskPlace:
    """The disks of a run; `reserved` is how many bytes each is guaranteed."""

    directory: Path
    reserved: int

    def room(self) -> int:
        """How many more disks fit."""
        return file_system.room(self.directory) // max(self.reserved, 1)

    def require_room(self, count: int = 1) -> None:
        """Raise DiskFull unless `count` more disks fit."""
        if self.room() < count:
            raise self._no_room(count)

    def _no_room(self, count: int) -> DiskFull:
        found = file_system.of(self.directory)
        disks = "another disk" if count == 1 else f"{count} more disks"
        return DiskFull(
            f"no room for {disks} of {self.reserved >> 20} MiB in {self.directory} "
            f"({found}, of which {found.margin >> 20} MiB stay free)",
            hint=f"end sandboxes, start the gateway with smaller disks (--disk), or set {VARIABLE} "
            "to a directory with more room",
        )

    def reserve(self, file: Path) -> None:
        """Reserve a disk's room, beyond the end of the file too. After DiskFull it is removed."""
        try:
            missing = self.reserved - file.stat().st_blocks * 512  # of a copy, less than a disk
            if missing > file_system.room(self.directory):
                raise self._no_room(1)
            handle = os.open(file, os.O_WRONLY | os.O_CLOEXEC)
            try:
                length = ctypes.c_int64(self.reserved)
                if _libc.fallocate(handle, _KEEP_SIZE, ctypes.c_int64(0), length) != 0:
                    self._refused(ctypes.get_errno())
            finally:
                os.close(handle)
        except BaseException:
            file.unlink(missing_ok=True)
            raise

    def _refused(self, number: int) -> None:
        if number in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(
                f"{self.directory} has no {self.reserved >> 20} MiB for another disk",
                hint=f"end sandboxes, or set {VARIABLE} to a directory with more room",
            )
        # A file system that cannot reserve: the room was checked, and that is all there is.
        if number not in (errno.EOPNOTSUPP, errno.ENOSYS):
            raise OSError(number, os.strerror(number), str(self.directory))


def described(runtime: Path, reserved_mib: int) -> str:
    """Where the disks of runs lie, on what file system, and how many more fit."""
    place = DiskPlace(chosen(runtime), reserved_mib << 20)
    return (
        f"{place.directory} ({file_system.of(place.directory)}), "
        f"{reserved_mib} MiB reserved for each: room for {max(place.room(), 0)} more"
    )


def open_place(run: Run, reserved: int) -> DiskPlace:
    """The place of a run's disks, made if it is not the run's own directory; a run that is resumed
    finds its disks again."""
    runtime = run.directory.parent
    parent = chosen(runtime)
    if parent == runtime:
        return DiskPlace(run.directory, reserved)
    directory = parent / run.id
    owner = {"runtime": parent_of(runtime), "boot": boot_id()}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / OWNER).write_text(json.dumps(owner), encoding="utf-8")
    except OSError as error:
        raise PathError(
            f"the disks of sandboxes cannot lie in {parent}: {error.strerror}",
            hint=f"set {VARIABLE} to a directory that can be written",
        ) from error
    run.at_end.callback(shutil.rmtree, directory, ignore_errors=True)
    return DiskPlace(directory, reserved)


def abandoned(runtime: Path, cache: Path, dead: DeadRuns) -> Iterator[Path]:
    """Directories with disks of dead runs of this runtime directory, or of an earlier boot."""
    places = {cache / IN_CACHE, chosen(runtime)} - {runtime}
    for place in sorted(places):
        with contextlib.suppress(OSError):
            for directory in place.iterdir():
                if directory.is_dir() and _is_abandoned(directory, runtime, dead):
                    yield directory


def _is_abandoned(directory: Path, runtime: Path, dead: DeadRuns) -> bool:
    try:
        owner = json.loads((directory / OWNER).read_text(encoding="utf-8"))
        mark, boot = owner["runtime"], owner["boot"]
    except (OSError, ValueError, KeyError, TypeError):
        # COPPICE_DISKS may hold other things: this one has a run's name and nothing in it.
        if not RUN_ID.fullmatch(directory.name) or {entry.name for entry in directory.iterdir()} - {
            OWNER
        }:
            return False
        return time.time() - directory.stat().st_mtime > NEW_S
    if boot != boot_id():
        return True
    return bool(mark == parent_of(runtime)) and runtime / directory.name in dead

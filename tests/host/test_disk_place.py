"""Where the disks of a run lie, the room that they reserve, and what dead runs left there."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.errors import DiskFull, PathError
from harness.host import disk_place, file_system
from harness.host.disk_place import DiskPlace, chosen, open_place
from harness.host.leftovers import find, reclaim
from harness.host.session import open_run

MIB = 1 << 20
linux = pytest.mark.skipif(
    os.geteuid() != 0 or not sys.platform.startswith("linux"), reason="mounting needs root"
)


@contextlib.contextmanager
def small(directory: Path, mib: int) -> Iterator[Path]:
    directory.mkdir()
    argv: list[str | Path] = [
        "mount",
        "-t",
        "tmpfs",
        "-o",
        f"size={mib}m",
        "coppice-test",
        directory,
    ]
    subprocess.run(argv, check=True)
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", directory], check=True)


@linux
def test_disks_leave_a_runtime_directory_that_is_in_memory(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_disk = tmp_path / "on-disk"
    assert file_system.of(on_disk).in_memory or chosen(on_disk) == on_disk
    with small(tmp_path / "memory", 16) as runtime:
        assert chosen(runtime) == cache / disk_place.IN_CACHE
        with open_run(runtime) as run:
            place = open_place(run, MIB)
            assert place.directory == cache / disk_place.IN_CACHE / run.id
            assert open_place(run, MIB).directory == place.directory  # of a resumed run
        assert not place.directory.exists()
        monkeypatch.setenv("COPPICE_DISKS", str(tmp_path / "named"))
        assert chosen(runtime) == tmp_path / "named"


@linux
def test_room_is_reserved_before_it_is_needed(tmp_path: Path) -> None:
    with small(tmp_path / "place", 64) as directory:
        place = DiskPlace(directory, 24 * MIB)
        assert place.room() == 2  # a twentieth stays free
        first, second, third = (directory / name for name in ("first", "second", "third"))
        for file in (first, second, third):
            file.write_bytes(b"header")
        place.reserve(first)
        place.reserve(second)
        assert first.stat().st_size == len(b"header")  # its format knows its own length
        with pytest.raises(DiskFull, match="no room for another disk of 24 MiB") as caught:
            place.reserve(third)
        assert "COPPICE_DISKS" in str(caught.value) and not third.exists()
        # A copy of a disk has some of its room already.
        first.unlink()
        copy = directory / "copy"
        copy.write_bytes(os.urandom(20 * MIB))
        assert place.room() == 0
        place.reserve(copy)
        copy.unlink()
        first.write_bytes(b"header")
        place.reserve(first)
        # What is left goes to whatever takes it, and the reserved room stays.
        with pytest.raises(OSError, match="No space left"):
            (directory / "greedy").write_bytes(bytes(64 * MIB))
        with first.open("r+b") as opened:
            opened.write(os.urandom(24 * MIB))
            os.fsync(opened.fileno())


def test_a_place_that_cannot_be_made_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("COPPICE_DISKS", str(tmp_path / "file"))
    with open_run(tmp_path / "runtime") as run, pytest.raises(PathError, match="cannot lie in"):
        open_place(run, MIB)


def test_disks_of_dead_runs_are_found_and_no_others(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "place"
    monkeypatch.setenv("COPPICE_DISKS", str(place))
    runtime, other = tmp_path / "runtime", tmp_path / "other"
    other.mkdir()
    (place / "not-ours").mkdir(parents=True)
    with open_run(runtime) as run:
        living = open_place(run, MIB).directory
        owner = json.loads((living / disk_place.OWNER).read_text(encoding="utf-8"))
        names = ("20260101T000000Z-00000001", "20260101T000000Z-00000002", "20260101T000000Z-0000")
        dead, elsewhere, broken = (place / name for name in names)
        for directory, facts in (
            (dead, owner),
            (elsewhere, owner | {"runtime": "coppice-another"}),
            (broken, {}),
        ):
            directory.mkdir()
            (directory / disk_place.OWNER).write_text(json.dumps(facts), encoding="utf-8")
            (directory / "disk").touch()
        found = {Path(leftover.name) for leftover in find(runtime, cache)}
        assert dead in found and not {living, elsewhere, broken, place / "not-ours"} & found
        # After a reboot the runs of every runtime directory are dead.
        monkeypatch.setattr(disk_place, "boot_id", lambda: "another")
        assert {dead, elsewhere} <= {Path(leftover.name) for leftover in find(runtime, cache)}
        monkeypatch.undo()
        monkeypatch.setenv("COPPICE_DISKS", str(place))
        monkeypatch.setenv("COPPICE_CACHE", str(cache))
        reclaim(runtime)
        assert not dead.exists() and living.exists() and elsewhere.exists()

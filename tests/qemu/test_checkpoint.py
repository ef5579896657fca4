"""Checkpoints that must not be restored, disks that are full, and device state that is garbage."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.errors import (
    CheckpointCorrupt,
    CheckpointError,
    CheckpointForeign,
    CheckpointTruncated,
    DiskFull,
    SandboxError,
)
from harness.host.run import Run, cache_folder
from harness.sandbox.protocol import Tier
from harness.sandbox.qemu import QemuSubstrate
from harness.sandbox.qemu import checkpoint as checkpoints
from harness.sandbox.qemu.checkpoint import Checkpoint
from harness.sandbox.qemu.machine import Shape
from harness.sandbox.qemu.substrate import QemuTemplate
from tests.guests import borrowed_cache, launched

BUILT_FROM = {"image": "a", **Shape("tcg").facts()}


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    """A checkpoint of a few kilobytes, written the way a real one is."""
    with checkpoints.writing(tmp_path, BUILT_FROM) as folder:
        (folder / checkpoints.MEMORY).write_bytes(os.urandom(16 * 1024))
        (folder / checkpoints.DEVICES).write_bytes(os.urandom(2 * 1024))
    return checkpoints.path_for(tmp_path, BUILT_FROM)


def refused(folder: Path, kind: type[CheckpointError], says: str) -> None:
    with pytest.raises(kind, match=says) as error:
        checkpoints.load(folder, BUILT_FROM)
    assert error.value.exit_code == 65
    assert error.value.hint


def test_what_was_written_is_loaded(sealed: Path) -> None:
    loaded = checkpoints.load(sealed, BUILT_FROM)
    assert (loaded.folder, dict(loaded.built_from)) == (sealed, BUILT_FROM)
    assert sorted(path.name for path in sealed.parent.iterdir()) == [sealed.name]


@pytest.mark.parametrize("name", [checkpoints.MEMORY, checkpoints.DEVICES])
def test_a_truncated_or_missing_part_is_refused(sealed: Path, name: str) -> None:
    os.truncate(sealed / name, (sealed / name).stat().st_size - 1)
    refused(sealed, CheckpointTruncated, "bytes of")
    (sealed / name).unlink()
    refused(sealed, CheckpointTruncated, "0 bytes of")


@pytest.mark.parametrize("name", [checkpoints.MEMORY, checkpoints.DEVICES])
@pytest.mark.parametrize("at", [0, 1000, -1])
def test_one_changed_byte_is_refused(sealed: Path, name: str, at: int) -> None:
    data = bytearray((sealed / name).read_bytes())
    data[at] ^= 1
    (sealed / name).write_bytes(data)
    refused(sealed, CheckpointCorrupt, "digest differs")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "{}", '{"schema": "coppice.checkpoint/1"}'],
)
def test_an_unreadable_manifest_is_refused(sealed: Path, text: str) -> None:
    (sealed / checkpoints.MANIFEST).write_text(text)
    refused(sealed, CheckpointCorrupt, "no readable manifest")


def test_a_missing_manifest_is_refused(sealed: Path) -> None:
    (sealed / checkpoints.MANIFEST).unlink()
    refused(sealed, CheckpointCorrupt, "no readable manifest")


def without_memory(manifest: dict[str, Any]) -> None:
    del manifest["files"][checkpoints.MEMORY]


def listed_files(manifest: dict[str, Any]) -> None:
    manifest["files"] = []


def listed_origin(manifest: dict[str, Any]) -> None:
    manifest["built_from"] = []


def no_digest(manifest: dict[str, Any]) -> None:
    manifest["files"][checkpoints.MEMORY] = {"bytes": 16 * 1024}


@pytest.mark.parametrize("change", [without_memory, listed_files, listed_origin, no_digest])
def test_a_manifest_that_does_not_vouch_for_every_part_is_refused(
    sealed: Path, change: Callable[[dict[str, Any]], None]
) -> None:
    path = sealed / checkpoints.MANIFEST
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    refused(sealed, CheckpointCorrupt, "no readable manifest")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("qemu", "QEMU emulator version 1.0"),
        ("machine", "pc"),
        ("accelerator", "kvm"),
        ("memory_mib", 512),
        ("image", "another"),
        ("invented", "key"),
    ],
)
def test_another_hosts_checkpoint_is_refused(sealed: Path, key: str, value: object) -> None:
    path = sealed / checkpoints.MANIFEST
    manifest = json.loads(path.read_text())
    manifest["built_from"][key] = value
    path.write_text(json.dumps(manifest))
    refused(sealed, CheckpointForeign, f"made with {key} = ")


def test_a_later_schema_is_refused(sealed: Path) -> None:
    path = sealed / checkpoints.MANIFEST
    path.write_text(path.read_text().replace(checkpoints.SCHEMA, "coppice.checkpoint/2"))
    refused(sealed, CheckpointForeign, "of schema 'coppice.checkpoint/2'")


def test_an_interrupted_writer_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), checkpoints.writing(tmp_path, BUILT_FROM) as folder:
        (folder / checkpoints.MEMORY).write_bytes(b"half")
        raise KeyboardInterrupt
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_other_failures_of_the_disk_are_not_called_full(tmp_path: Path) -> None:
    with (
        pytest.raises(OSError, match="Input/output") as error,
        checkpoints.writing(tmp_path, BUILT_FROM),
    ):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    assert error.value.errno == errno.EIO


# A real disk, and real VMMs.


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A cache on a file system of 64 MiB, smaller than a guest's memory."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root: run it again with sudo")
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64m", "coppice-test", str(disk)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no small file system can be mounted here: {done.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_leaves_nothing_half_written(run: Run, small_disk: Path) -> None:
    QemuSubstrate().prepare(run, cache_folder(), Tier.FULL)
    cache = borrowed_cache(small_disk, "kernels", "images", "accelerator")
    before = os.statvfs(small_disk).f_bfree
    leases = set(run.leases.iterdir())
    with pytest.raises(DiskFull, match="no room") as full:
        QemuSubstrate().prepare(run, cache, Tier.DURABLE_POOL)
    assert full.value.exit_code == 74
    assert "COPPICE_CACHE" in (full.value.hint or "")
    assert list((cache / "checkpoints").iterdir()) == []
    assert before - os.statvfs(small_disk).f_bfree < 8
    assert {path.name for path in run.leases.iterdir() if path.read_text() == run.id} <= {
        path.name for path in leases
    }


def test_a_disk_too_full_for_an_image_leaves_nothing_half_written(
    run: Run, small_disk: Path
) -> None:
    cache = borrowed_cache(small_disk, "kernels", "accelerator")
    room = os.statvfs(small_disk)
    (small_disk / "filler").write_bytes(bytes((room.f_bfree - 300) * room.f_bsize))
    with pytest.raises(DiskFull):
        QemuSubstrate().prepare(run, cache, Tier.FULL)
    assert list((cache / "images").iterdir()) == []


@pytest.fixture(scope="module")
def template(run: Run) -> QemuTemplate:
    return QemuSubstrate().prepare(run, cache_folder(), Tier.DURABLE_POOL)


def empty(data: bytes) -> bytes:
    return b""


def noise(data: bytes) -> bytes:
    return os.urandom(len(data))


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def zeroed(data: bytes) -> bytes:
    return data[:200] + bytes(len(data) - 200)


@pytest.mark.parametrize("damage", [empty, noise, cut, zeroed])
def test_a_vmm_given_garbage_fails_soon(
    run: Run, template: QemuTemplate, tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    # What `load` would refuse is put before a VMM here, to see that it ends well all the same.
    good = template.checkpoint
    assert good
    (tmp_path / checkpoints.MEMORY).symlink_to(good.memory)
    (tmp_path / checkpoints.DEVICES).write_bytes(damage(good.devices.read_bytes()))
    bad = QemuTemplate(
        template.shape, template.image, Checkpoint(tmp_path, "bad", good.built_from), ""
    )
    with launched(run, Tier.DURABLE_POOL, bad) as guest:
        start = time.monotonic()
        with pytest.raises(SandboxError) as error:
            guest.awaken(5)
        assert time.monotonic() - start < 12
        assert guest.vmm.name in str(error.value)
        process, lease = guest.vmm.process, guest.identity.lease
    assert process.poll() is not None
    assert not lease.exists()

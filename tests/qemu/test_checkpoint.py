"""Checkpoints that must not be restored, and one that survives all processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
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
from harness.host.identity import allocate
from harness.host.locks import HALF_BUILT
from harness.host.run import Run
from harness.host.session import open_run
from harness.measure.record import Scalar
from harness.paths import cache_directory
from harness.sandbox.base import SEAL
from harness.sandbox.manifest import NAME as MANIFEST
from harness.sandbox.pool import Pool
from harness.sandbox.protocol import Sandbox, Tier
from harness.sandbox.qemu import QemuSubstrate
from harness.sandbox.qemu.checkpoint import DEVICES, MEMORY, Checkpoint, complete, load
from harness.sandbox.qemu.substrate import QemuTemplate
from tests.qemu.conftest import Launch


@pytest.fixture
def sealed(template: QemuTemplate) -> Checkpoint:
    assert template.checkpoint
    return template.checkpoint


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A tiny checkpoint with a valid manifest, to be damaged by tests."""
    made = tmp_path / "checkpoint"
    made.mkdir()
    (made / MEMORY).write_bytes(b"memory" * 1000)
    (made / DEVICES).write_bytes(b"devices")
    complete(made, {"qemu": "7"})
    assert load(made, {"qemu": "7"}).directory == made
    return made


def test_truncated(small: Path) -> None:
    os.truncate(small / MEMORY, 5999)
    with pytest.raises(CheckpointTruncated, match="5999 bytes of 6000"):
        load(small, {"qemu": "7"})
    (small / MEMORY).unlink()
    with pytest.raises(CheckpointTruncated, match="0 bytes"):
        load(small, {"qemu": "7"})


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": "coppice.checkpoint/2"}'])
def test_an_invalid_manifest(small: Path, text: str) -> None:
    (small / MANIFEST).write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointCorrupt, match="no readable manifest"):
        load(small, {"qemu": "7"})


@pytest.mark.parametrize("name", [MEMORY, DEVICES, MANIFEST])
def test_a_damaged_checkpoint_is_built_again(
    substrate: QemuSubstrate, run: Run, tmp_path: Path, name: str
) -> None:
    """Sandboxes start from what was built, whatever happened to the file meanwhile."""
    for kept in ("kernels", "images", "accelerators"):
        (tmp_path / kept).symlink_to(cache_directory() / kept)
    built: list[Path] = []

    class Counted(QemuSubstrate):
        def _seal(self, *arguments: Any) -> dict[str, Scalar]:
            built.append(arguments[-1])
            (arguments[-1] / MEMORY).write_bytes(b"memory" * 1000)
            (arguments[-1] / DEVICES).write_bytes(b"devices")
            return {"clock_source": "tsc"}

    own = Counted()
    first = own.prepare(run, tmp_path, Tier.DURABLE_POOL).checkpoint
    assert first and first.as_record().built_from["clock_source"] == "tsc"
    assert own.prepare(run, tmp_path, Tier.DURABLE_POOL).checkpoint == first
    assert len(built) == 1
    path = first.directory / name
    data = bytearray(path.read_bytes())
    data[3] ^= 1
    path.write_bytes(data)
    again = own.prepare(run, tmp_path, Tier.DURABLE_POOL).checkpoint
    assert again == first and len(built) == 2
    assert path.read_bytes() != bytes(data)


def test_foreign(small: Path) -> None:
    with pytest.raises(CheckpointForeign, match="made with qemu = '7', this host has '8'"):
        load(small, {"qemu": "8"})
    with pytest.raises(CheckpointForeign, match="machine"):
        load(small, {"qemu": "7", "machine": "q35"})
    manifest = json.loads((small / MANIFEST).read_text(encoding="utf-8"))
    (small / MANIFEST).write_text(
        json.dumps(manifest | {"schema": "coppice.checkpoint/3"}), encoding="utf-8"
    )
    with pytest.raises(CheckpointForeign, match="schema"):
        load(small, {"qemu": "7"})


def test_each_refusal_is_a_checkpoint_error() -> None:
    for kind in (CheckpointTruncated, CheckpointCorrupt, CheckpointForeign):
        assert issubclass(kind, CheckpointError)


def test_a_vmm_that_is_given_garbage_reports_it(
    launch: Launch, sealed: Checkpoint, tmp_path: Path
) -> None:
    sandbox = launch(Tier.DURABLE_POOL)
    shutil.copytree(sealed.directory, tmp_path / "damaged", ignore=lambda *_: [MEMORY])
    (tmp_path / "damaged" / DEVICES).write_bytes(b"\0garbage" * 1000)
    sandbox._checkpoint = Checkpoint(tmp_path / "damaged", "x", {})
    with pytest.raises(SandboxError):
        sandbox.awaken(30)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", disk], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_a_full_disk_leaves_nothing(run: Run, tiny_disk: Path) -> None:
    for kept in ("kernels", "images", "accelerators"):
        (tiny_disk / kept).symlink_to(cache_directory() / kept)
    with pytest.raises(DiskFull, match="no space left for") as refusal:
        QemuSubstrate().prepare(run, tiny_disk, Tier.DURABLE_POOL)
    assert refusal.value.exit_code == 74
    assert not list((tiny_disk / "checkpoints").glob(f"{HALF_BUILT}*"))
    assert not list((tiny_disk / "checkpoints").iterdir())


def test_durability(substrate: QemuSubstrate, tmp_path: Path) -> None:
    """All processes killed, the page cache dropped, a new run: guests answer with their state."""

    def pool(run: Run) -> Pool[Sandbox]:
        template = substrate.prepare(run, cache_directory(), Tier.DURABLE_PREWARM_POOL)
        return Pool(
            lambda: substrate.launch(
                run, template, Tier.DURABLE_PREWARM_POOL, allocate(run.leases, run.id)
            ),
            2,
            refill=False,
        )

    with open_run(tmp_path) as first, pool(first) as before:
        before.fill()
        for sandbox in (before.check_out(), before.check_out()):
            sandbox.vmm.process.kill()  # type: ignore[attr-defined]
            sandbox.vmm.process.wait()  # type: ignore[attr-defined]
    if os.geteuid() == 0:
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3", encoding="utf-8")
    with open_run(tmp_path) as second, pool(second) as after:
        after.fill()
        for sandbox in (after.check_out(), after.check_out()):
            sandbox.awaken(30)
            assert sandbox.agent.read_file(SEAL) == b"written before the checkpoint"

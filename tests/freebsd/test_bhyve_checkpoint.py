"""Checkpoints of bhyve guests on disk: what is opened, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.errors import (
    CheckpointCorrupt,
    CheckpointForeign,
    CheckpointTruncated,
    UsageError,
)
from harness.host.run import Run
from harness.sandbox.bhyve import checkpoint
from harness.sandbox.bhyve.machine import Shape
from harness.sandbox.protocol import Tier
from tests.freebsd.documented import host, meta
from tests.freebsd.hosts import Answer, Documented
from tests.freebsd.test_bhyve import CACHE, substrate


def sealed(there: Documented, memory_mib: int = 256) -> dict[str, object]:
    """The inputs of a checkpoint whose files exist."""
    built_from: dict[str, object] = {"image": "x", **Shape(memory_mib).facts()}
    directory = checkpoint.directory_for(str(CACHE), built_from)  # type: ignore[arg-type]
    sizes = {"ram": 256 << 20, "ram.kern": 15900, "ram.meta": 2200}
    files = {name: {"bytes": size, "sha256": "a" * 64} for name, size in sizes.items()}
    manifest = {"schema": checkpoint.SCHEMA, "built_from": built_from, "files": files}
    there.files = {
        f"{directory}/manifest.json": json.dumps(manifest).encode(),
        f"{directory}/ram.meta": meta(memory_mib),
    }
    return built_from


def load(there: Documented, built_from: dict[str, object], memory_mib: int = 256) -> None:
    checkpoint.load(there, str(CACHE), built_from, memory_mib)  # type: ignore[arg-type]


def test_an_intact_checkpoint_is_opened() -> None:
    there = host()
    load(there, sealed(there))


def test_a_checkpoint_of_another_memory_size_is_refused_before_a_machine_is_made() -> None:
    there = host()
    built_from = sealed(there, 128)
    with pytest.raises(CheckpointForeign, match="128 MiB of memory, not 256"):
        load(there, built_from)
    assert not any("bhyve" in line.split()[0] for line in there.log)


@pytest.mark.parametrize(
    ("first", "error"),
    [
        ((r"stat -f %z \S+/ram", Answer("4096\n")), CheckpointTruncated),
        ((r"stat -f %z \S+/ram.kern", Answer("", 1, "No such file")), CheckpointTruncated),
        ((r"sha256 -q \S+/ram", Answer("b" * 64)), CheckpointCorrupt),
    ],
)
def test_a_damaged_checkpoint_is_refused(first: tuple[str, Answer], error: type[Exception]) -> None:
    there = host(first)
    built_from = sealed(there)
    with pytest.raises(error):
        load(there, built_from)


def test_a_checkpoint_without_a_readable_manifest_is_refused() -> None:
    there = host()
    built_from = sealed(there)
    for path in list(there.files):
        there.files[path] = b"{"
    with pytest.raises(CheckpointCorrupt):
        load(there, built_from)
    there.files = {}
    with pytest.raises(CheckpointCorrupt):
        load(there, built_from)


def test_a_path_that_bhyve_cannot_hold_is_refused_with_its_length(run: Run) -> None:
    there = host()
    long = Path("/var/cache/" + "x" * 70)
    with pytest.raises(UsageError, match=r"has \d+ bytes; bhyve restores .* at most 99") as e:
        substrate(there).prepare(run, long, Tier.DURABLE_POOL)
    assert "COPPICE_CACHE" in str(e.value)
    assert not any(line.startswith("bhyveload") for line in there.log)

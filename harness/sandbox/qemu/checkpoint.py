"""QEMU checkpoints on disk: a directory with guest memory, device state and a manifest.

A checkpoint is immutable and named by the digest of what it was built from. Its manifest has the
digests of its files; `load` checks everything, so that a truncated, corrupt or foreign checkpoint
is refused before a VMM maps it. Every restored sandbox maps guest memory privately.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.host.locks import half_built
from harness.measure.record import Image, Scalar, digest
from harness.sandbox import manifest

SCHEMA = "coppice.checkpoint/1"
MEMORY = "memory"
DEVICES = "devices"
COPY = "coppice-guest"
"""The name of a private copy of guest memory in /proc/PID/maps."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that `load` has checked."""

    directory: Path
    id: str
    built_from: Mapping[str, Scalar]

    @property
    def memory(self) -> Path:
        return self.directory / MEMORY

    @property
    def devices(self) -> Path:
        return self.directory / DEVICES

    @contextmanager
    def private_memory(self) -> Iterator[int]:
        """A full copy of guest memory in an anonymous file, for one VMM; its descriptor."""
        copy = os.memfd_create(COPY, os.MFD_CLOEXEC)
        try:
            with self.memory.open("rb") as file:
                at, length = 0, os.fstat(file.fileno()).st_size
                while at < length:
                    at += os.sendfile(copy, file.fileno(), at, length - at)
            yield copy
        finally:
            os.close(copy)

    def as_record(self) -> Image:
        return Image("checkpoint", self.id, self.built_from)


def path_for(cache: Path, built_from: Mapping[str, Scalar]) -> Path:
    return cache / "checkpoints" / manifest.name_of(built_from)


@contextmanager
def writing(cache: Path, built_from: Mapping[str, Scalar]) -> Iterator[Path]:
    """A directory to write memory and device state into; complete once the block succeeds.

    Nothing is left when it fails, DiskFull included.
    """
    target = path_for(cache, built_from)
    with half_built(target) as directory:
        yield directory
        files = {
            name: {"bytes": (directory / name).stat().st_size, "sha256": digest(directory / name)}
            for name in (MEMORY, DEVICES)
        }
        (directory / manifest.NAME).write_text(
            manifest.render(SCHEMA, built_from, files), encoding="utf-8"
        )


def load(directory: Path, expected: Mapping[str, Scalar]) -> Checkpoint:
    """Open and check a checkpoint that must have been built from `expected`.

    Raises CheckpointCorrupt, CheckpointTruncated or CheckpointForeign. Reads every byte, so never
    call it on a timed path.
    """
    try:
        text = (directory / manifest.NAME).read_bytes()
    except OSError as error:
        raise manifest.unreadable(directory, error) from error
    found = manifest.parse(text, directory, SCHEMA, (MEMORY, DEVICES), expected)
    for name, (length, sha256) in found.files.items():
        path = directory / name
        manifest.check_length(path, path.stat().st_size if path.exists() else 0, length)
        manifest.check_digest(path, digest(path), sha256)
    return Checkpoint(directory, found.sha256, found.built_from)

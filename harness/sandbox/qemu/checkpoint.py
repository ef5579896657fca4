"""QEMU checkpoints on disk: a directory with guest memory, device state and a manifest.

A checkpoint is an entry of the cache, which checks its content at each use (harness/host/cache.py):
a damaged one is built again before a VMM maps it. Its manifest says what it was built from, and has
the digests of its files. Every restored sandbox maps guest memory privately.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from harness.measure.record import Image, Scalar, digest
from harness.sandbox import manifest
from harness.sandbox.qemu import processor
from harness.sandbox.qemu.processor import Processor

SCHEMA = "coppice.checkpoint/2"
MEMORY = "memory"
DEVICES = "devices"
COPY = "coppice-guest"
"""The name of a private copy of guest memory in /proc/PID/maps."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that `load` has opened; `observed` is what the saved guest said of itself."""

    directory: Path
    id: str
    built_from: Mapping[str, Scalar]
    observed: Mapping[str, Scalar] = field(default_factory=dict)

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
        return Image("checkpoint", self.id, {**self.built_from, **self.observed})


def path_for(cache: Path, built_from: Mapping[str, Scalar]) -> Path:
    # With the schema: a manifest of a former one lies elsewhere, and is not asked.
    return cache / "checkpoints" / manifest.name_of({**built_from, "schema": SCHEMA})


def complete(
    directory: Path,
    built_from: Mapping[str, Scalar],
    observed: Mapping[str, Scalar] | None = None,
    shown: Processor | None = None,
) -> None:
    """Add the manifest to a directory that has memory and device state. `shown` is the processor
    that its guest saw, where that is the host's."""
    files = {
        name: {"bytes": (directory / name).stat().st_size, "sha256": digest(directory / name)}
        for name in (MEMORY, DEVICES)
    }
    (directory / manifest.NAME).write_text(
        manifest.render(SCHEMA, built_from, files, observed, shown.facts() if shown else None),
        encoding="utf-8",
    )


def load(
    directory: Path, expected: Mapping[str, Scalar], here: Processor | None = None
) -> Checkpoint:
    """Open a checkpoint that must have been built from `expected`, and whose guest must have seen
    the processor that is shown `here`.

    Raises CheckpointCorrupt, CheckpointTruncated or CheckpointForeign. It does not read the files.
    """
    try:
        text = (directory / manifest.NAME).read_bytes()
    except OSError as error:
        raise manifest.unreadable(directory, error) from error
    found = manifest.parse(
        text,
        directory,
        SCHEMA,
        (MEMORY, DEVICES),
        expected,
        partial(processor.check, directory, here=here),
    )
    for name, (length, _) in found.files.items():
        path = directory / name
        manifest.check_length(path, path.stat().st_size if path.exists() else 0, length)
    observed = {**found.observed, **found.processor}
    return Checkpoint(directory, found.sha256, found.built_from, observed)

"""A checkpoint on disk: a directory with guest memory, device state and a manifest.

It is immutable, named by the digest of what built it, and carries the digest of its content.
Opening one checks both, so a truncated, corrupt or foreign checkpoint is refused before a VMM
maps it. Guest memory is mapped privately by every sandbox restored from it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from harness.errors import CheckpointCorrupt, CheckpointForeign, CheckpointTruncated
from harness.host.locks import half_built
from harness.measure.record import Image, Scalar, digest

SCHEMA = "coppice.checkpoint/1"
MEMORY = "memory"
DEVICES = "devices"
MANIFEST = "manifest.json"
COPY = "coppice-guest"
"""The name that a list of mappings shows for a private copy of guest memory."""
HINT = "it is made anew when it is gone: remove it and run again"


@dataclass(frozen=True)
class Checkpoint:
    """An opened, checked checkpoint. `key` is what its guest signs nonces with when restored."""

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
        """A whole copy of guest memory in a file without a name; its descriptor, for one VMM."""
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


def name_of(built_from: Mapping[str, Scalar]) -> str:
    """A checkpoint's name: the digest of what it is built from."""
    return hashlib.sha256(json.dumps(dict(built_from), sort_keys=True).encode()).hexdigest()


def path_for(cache: Path, built_from: Mapping[str, Scalar]) -> Path:
    return cache / "checkpoints" / name_of(built_from)


@contextmanager
def writing(cache: Path, built_from: Mapping[str, Scalar]) -> Iterator[Path]:
    """A directory to write memory and device state into; sealed when the block ends well.

    DiskFull leaves nothing behind.
    """
    target = path_for(cache, built_from)
    with half_built(target) as directory:
        yield directory
        files = {
            name: {"bytes": (directory / name).stat().st_size, "sha256": digest(directory / name)}
            for name in (MEMORY, DEVICES)
        }
        manifest = {"schema": SCHEMA, "built_from": dict(built_from), "files": files}
        (directory / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True))


def load(directory: Path, expected: Mapping[str, Scalar]) -> Checkpoint:
    """Open and check a checkpoint that must be built from `expected`.

    Raises CheckpointCorrupt, CheckpointTruncated or CheckpointForeign. Reads all of it: slow once,
    never on a timed path.
    """
    try:
        text = (directory / MANIFEST).read_bytes()
        manifest = json.loads(text)
        schema, built_from = manifest["schema"], dict(manifest["built_from"].items())
        files = {
            name: (manifest["files"][name]["bytes"], manifest["files"][name]["sha256"])
            for name in (MEMORY, DEVICES)
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointCorrupt(
            f"{directory} has no readable manifest: {error}", hint=HINT
        ) from error
    if schema != SCHEMA:
        raise CheckpointForeign(f"{directory} is of schema {schema!r}, not {SCHEMA!r}", hint=HINT)
    for key in sorted({*built_from, *expected}):
        if built_from.get(key) != expected.get(key):
            raise CheckpointForeign(
                f"{directory} was made with {key} = {built_from.get(key)!r}, "
                f"this host has {expected.get(key)!r}",
                hint=HINT,
            )
    for name, (length, sha256) in files.items():
        path = directory / name
        size = path.stat().st_size if path.exists() else 0
        if size != length:
            raise CheckpointTruncated(f"{path} has {size} bytes of {length}", hint=HINT)
        if digest(path) != sha256:
            raise CheckpointCorrupt(
                f"{path} is not what was written: its digest differs", hint=HINT
            )
    return Checkpoint(directory, hashlib.sha256(text).hexdigest(), built_from)

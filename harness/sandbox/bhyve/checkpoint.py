"""bhyve checkpoints on disk: guest memory, kernel state, bhyve's metadata, and a manifest.

A checkpoint is immutable and named by the digest of what it was built from. Its manifest has the
digests of its files; `load` checks them, and the size of guest memory in bhyve's metadata, so that
a checkpoint that must not be restored is refused before a virtual machine is created for it.
"""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from harness.errors import (
    CheckpointCorrupt,
    CheckpointForeign,
    CheckpointTruncated,
    CommandFailed,
    UsageError,
)
from harness.host.protocol import Host, must
from harness.measure.record import Image, Scalar
from harness.sandbox import manifest
from harness.sandbox.manifest import HINT

SCHEMA = "coppice.bhyve-checkpoint/1"
MEMORY = "ram"
SUFFIXES = ("", ".kern", ".meta")
LONGEST = 99
"""The longest path, in bytes, that bhyve's snapshot code has room for."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that `load` has checked."""

    directory: str
    id: str
    built_from: Mapping[str, Scalar]

    @property
    def memory(self) -> str:
        return f"{self.directory}/{MEMORY}"

    def as_record(self) -> Image:
        return Image("checkpoint", self.id, self.built_from)


def directory_for(cache: str, built_from: Mapping[str, Scalar]) -> str:
    """The directory of a checkpoint. UsageError when its paths are too long for bhyve."""
    directory = f"{cache}/bhyve/{manifest.name_of(built_from)[:16]}"
    longest = f"{directory}/{MEMORY}{max(SUFFIXES, key=len)}"
    if len(longest.encode()) > LONGEST:
        raise UsageError(
            f"the path {longest} has {len(longest.encode())} bytes; bhyve restores from "
            f"paths of at most {LONGEST} bytes",
            hint="set COPPICE_CACHE to a directory with a shorter path",
        )
    return directory


@contextlib.contextmanager
def writing(host: Host, cache: str, built_from: Mapping[str, Scalar]) -> Iterator[str]:
    """The path to suspend to. When the block fails, the checkpoint is removed.

    It is written at its final path: bhyve may store the path.
    """
    directory = directory_for(cache, built_from)
    must(host, ["mkdir", "-p", directory])
    try:
        yield f"{directory}/{MEMORY}"
        files = {
            MEMORY + suffix: _facts(host, f"{directory}/{MEMORY}{suffix}") for suffix in SUFFIXES
        }
        must(host, ["chmod", "0444", *(f"{directory}/{name}" for name in files)])
        # The manifest makes it a checkpoint, so it is written last, and atomically.
        text = manifest.render(SCHEMA, built_from, files)
        host.put(text.encode(), f"{directory}/{manifest.NAME}")
    except BaseException:
        host.run(["rm", "-rf", directory])
        raise


def exists(host: Host, cache: str, built_from: Mapping[str, Scalar]) -> bool:
    return host.run(["test", "-e", f"{directory_for(cache, built_from)}/{manifest.NAME}"]).code == 0


def _facts(host: Host, path: str) -> dict[str, int | str]:
    size = must(host, ["stat", "-f", "%z", path]).text
    return {"bytes": int(size), "sha256": must(host, ["sha256", "-q", path], timeout_s=600).text}


def load(host: Host, cache: str, expected: Mapping[str, Scalar], memory_mib: int) -> Checkpoint:
    """Open and check the checkpoint that must have been built from `expected`.

    Raises CheckpointCorrupt, CheckpointTruncated or CheckpointForeign. Reads every byte, so never
    call it on a timed path.
    """
    directory = directory_for(cache, expected)
    try:
        text = host.get(f"{directory}/{manifest.NAME}")
    except CommandFailed as error:
        raise manifest.unreadable(directory, error) from error
    names = [MEMORY + suffix for suffix in SUFFIXES]
    found = manifest.parse(text, directory, SCHEMA, names, expected)
    for name, (length, sha256) in found.files.items():
        _check(host, f"{directory}/{name}", length, sha256)
    _check_memory_size(host, directory, memory_mib)
    return Checkpoint(directory, found.sha256, found.built_from)


def _check(host: Host, path: str, length: int, sha256: str) -> None:
    try:
        found = _facts(host, path)
    except CommandFailed as error:
        raise CheckpointTruncated(
            f"{path} cannot be read: {error.error_text}", hint=HINT
        ) from error
    manifest.check_length(path, int(found["bytes"]), length)
    manifest.check_digest(path, str(found["sha256"]), sha256)


def _check_memory_size(host: Host, directory: str, memory_mib: int) -> None:
    """bhyve aborts unless the guest has exactly the memory size that was saved."""
    path = f"{directory}/{MEMORY}.meta"
    try:
        memsize = json.loads(host.get(path))["basic metadata"]["memsize"]
        size = int(memsize)
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointCorrupt(
            f"{shlex.quote(path)} cannot be read: {error}", hint=HINT
        ) from error
    if size != memory_mib << 20:
        raise CheckpointForeign(
            f"{directory} is of a guest with {size >> 20} MiB of memory, not {memory_mib} MiB",
            hint=HINT,
        )

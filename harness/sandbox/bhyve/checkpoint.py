"""A checkpoint of bhyve's on disk: guest memory, the kernel's state of it, what bhyve says of both,
and our manifest.

It is immutable, named by the digest of what built it, and carries the digests of its files.
Opening one checks all of them, and the size of the guest's memory by bhyve's own word, so that what
must not be restored is refused before a virtual machine is made for it.
"""

from __future__ import annotations

import contextlib
import hashlib
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

SCHEMA = "coppice.bhyve-checkpoint/1"
MEMORY = "ram"
SUFFIXES = ("", ".kern", ".meta")
MANIFEST = "manifest.json"
LONGEST = 99
"""Bytes that bhyve's snapshot code has room for, of the longest of a checkpoint's paths."""
_HINT = "it is made anew when it is gone: remove it and run again"


@dataclass(frozen=True)
class Checkpoint:
    """An opened, checked checkpoint."""

    directory: str
    id: str
    built_from: Mapping[str, Scalar]

    @property
    def memory(self) -> str:
        return f"{self.directory}/{MEMORY}"

    def as_record(self) -> Image:
        return Image("checkpoint", self.id, self.built_from)


def directory_for(cache: str, built_from: Mapping[str, Scalar]) -> str:
    """Where a checkpoint is; UsageError when bhyve could not name it, whatever it is built from."""
    name = hashlib.sha256(json.dumps(dict(built_from), sort_keys=True).encode()).hexdigest()[:16]
    directory = f"{cache}/bhyve/{name}"
    longest = f"{directory}/{MEMORY}{max(SUFFIXES, key=len)}"
    if len(longest.encode()) > LONGEST:
        raise UsageError(
            f"{longest} has {len(longest.encode())} bytes, and bhyve restores from paths of at "
            f"most {LONGEST}",
            hint="name a directory with a shorter path in COPPICE_CACHE",
        )
    return directory


@contextlib.contextmanager
def writing(host: Host, cache: str, built_from: Mapping[str, Scalar]) -> Iterator[str]:
    """The path to suspend to; sealed when the block ends well, and nothing is left otherwise.

    Written where it will be restored from: bhyve may keep the path.
    """
    directory = directory_for(cache, built_from)
    must(host, ["mkdir", "-p", directory])
    try:
        yield f"{directory}/{MEMORY}"
        files = {MEMORY + one: _facts(host, f"{directory}/{MEMORY}{one}") for one in SUFFIXES}
        manifest = {"schema": SCHEMA, "built_from": dict(built_from), "files": files}
        must(host, ["chmod", "0444", *(f"{directory}/{name}" for name in files)])
        # What has no manifest is no checkpoint: it comes last, and in one step.
        text = json.dumps(manifest, indent=1, sort_keys=True)
        host.put(text.encode(), f"{directory}/{MANIFEST}")
    except BaseException:
        host.run(["rm", "-rf", directory])
        raise


def exists(host: Host, cache: str, built_from: Mapping[str, Scalar]) -> bool:
    return host.run(["test", "-e", f"{directory_for(cache, built_from)}/{MANIFEST}"]).code == 0


def _facts(host: Host, path: str) -> dict[str, Scalar]:
    size = must(host, ["stat", "-f", "%z", path]).text
    return {"bytes": int(size), "sha256": must(host, ["sha256", "-q", path], timeout_s=600).text}


def load(host: Host, cache: str, expected: Mapping[str, Scalar], memory_mib: int) -> Checkpoint:
    """Open and check the checkpoint that must be built from `expected`.

    Raises CheckpointCorrupt, CheckpointTruncated or CheckpointForeign. Reads all of it: slow once,
    never on a timed path.
    """
    directory = directory_for(cache, expected)
    try:
        text = host.get(f"{directory}/{MANIFEST}")
        manifest = json.loads(text)
        schema, built_from = manifest["schema"], dict(manifest["built_from"].items())
        files = {MEMORY + one: manifest["files"][MEMORY + one] for one in SUFFIXES}
        wanted = {name: (int(one["bytes"]), str(one["sha256"])) for name, one in files.items()}
    except (CommandFailed, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointCorrupt(
            f"{directory} has no readable manifest: {error}", hint=_HINT
        ) from error
    if schema != SCHEMA:
        raise CheckpointForeign(f"{directory} is of schema {schema!r}, not {SCHEMA!r}", hint=_HINT)
    for key in sorted({*built_from, *expected}):
        if built_from.get(key) != expected.get(key):
            raise CheckpointForeign(
                f"{directory} was made with {key} = {built_from.get(key)!r}, "
                f"this host has {expected.get(key)!r}",
                hint=_HINT,
            )
    for name, (length, sha256) in wanted.items():
        _check(host, f"{directory}/{name}", length, sha256)
    _same_memory(host, directory, memory_mib)
    return Checkpoint(directory, hashlib.sha256(text).hexdigest(), built_from)


def _check(host: Host, path: str, length: int, sha256: str) -> None:
    try:
        found = _facts(host, path)
    except CommandFailed as error:
        raise CheckpointTruncated(
            f"{path} cannot be read: {error.error_text}", hint=_HINT
        ) from error
    if found["bytes"] != length:
        raise CheckpointTruncated(f"{path} has {found['bytes']} bytes of {length}", hint=_HINT)
    if found["sha256"] != sha256:
        raise CheckpointCorrupt(f"{path} is not what was written: its digest differs", hint=_HINT)


def _same_memory(host: Host, directory: str, memory_mib: int) -> None:
    """bhyve restores into a guest of exactly the size that was saved, or aborts."""
    path = f"{directory}/{MEMORY}.meta"
    try:
        said = json.loads(host.get(path))["basic metadata"]["memsize"]
        size = int(said)
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointCorrupt(
            f"{shlex.quote(path)} cannot be read: {error}", hint=_HINT
        ) from error
    if size != memory_mib << 20:
        raise CheckpointForeign(
            f"{directory} is of a guest with {size >> 20} MiB of memory, not {memory_mib}",
            hint=_HINT,
        )

"""A sandbox saved to disk: memory, devices, disk. What templates, snapshots and paused ones are.

A state is immutable. Memory is a sparse file that every sandbox made from it maps privately, so a
hundred of them share what none has written to. Whoever saves a running sandbox writes what differs
from the state that it came from: the pages that its VMM holds for itself.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.errors import CheckpointCorrupt, CheckpointForeign, CheckpointTruncated, DiskFull
from harness.host.locks import half_built
from harness.measure.record import Image, Scalar, digest

SCHEMA = "coppice.gateway-state/1"
MEMORY, DEVICES, DISK, MANIFEST = "memory", "devices", "disk.qcow2", "manifest.json"
PAGE = 4096
PIECE = 1 << 20
_PRESENT_OR_SWAPPED, _OF_A_FILE = 0b11 << 62, 1 << 61  # bits of the kernel's pagemap


@dataclass(frozen=True)
class State:
    """An opened, checked state. `facts` are what its VMM and image must be."""

    directory: Path
    facts: Mapping[str, Scalar]
    sha256: str
    key: bytes
    """What its guest signs nonces with until it is somebody else."""

    @property
    def memory(self) -> Path:
        return self.directory / MEMORY

    @property
    def devices(self) -> Path:
        return self.directory / DEVICES

    @property
    def disk(self) -> Path:
        return self.directory / DISK

    def as_record(self) -> Image:
        return Image("gateway-state", self.sha256, self.facts)

    def bytes(self) -> int:
        """What it takes on this host's disk."""
        return sum(one.stat().st_blocks * 512 for one in self.directory.iterdir())


@contextlib.contextmanager
def writing(target: Path, facts: Mapping[str, Scalar], key: bytes) -> Iterator[Path]:
    """A directory for the three files of a state, which becomes `target` when the block ends
    well."""
    with half_built(target) as directory:
        yield directory
        _dig(directory / MEMORY)
        files = {
            MEMORY: {
                "bytes": (directory / MEMORY).stat().st_size,
                "sha256": _sparse_digest(directory),
            },
            DEVICES: _described(directory / DEVICES),
            DISK: _described(directory / DISK),
        }
        manifest = {"schema": SCHEMA, "facts": dict(facts), "files": files, "key": key.hex()}
        (directory / MANIFEST).touch(0o600)
        (directory / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True))
        for one in (*directory.iterdir(), directory):
            handle = os.open(one, os.O_RDONLY)
            try:
                os.fsync(handle)  # it must be there after this host has lost its power
            finally:
                os.close(handle)


def _described(path: Path) -> dict[str, int | str]:
    return {"bytes": path.stat().st_size, "sha256": digest(path)}


def load(directory: Path, facts: Mapping[str, Scalar]) -> State:
    """Open and check a state that must have been made under `facts`.

    Raises CheckpointCorrupt, CheckpointTruncated or CheckpointForeign. Reads all of it.
    """
    try:
        text = (directory / MANIFEST).read_bytes()
        manifest = json.loads(text)
        schema, found, files = manifest["schema"], manifest["facts"], manifest["files"]
        key = bytes.fromhex(manifest["key"])
        expected = {one: (files[one]["bytes"], files[one]["sha256"]) for one in files}
        sizes = {one: (directory / one).stat().st_size for one in (MEMORY, DEVICES, DISK)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointCorrupt(f"{directory} is no saved sandbox: {error}") from error
    if schema != SCHEMA:
        raise CheckpointForeign(f"{directory} is of schema {schema!r}, not {SCHEMA!r}")
    for fact in sorted({*found, *facts}):
        if found.get(fact) != facts.get(fact):
            raise CheckpointForeign(
                f"{directory} was saved with {fact} = {found.get(fact)!r}, "
                f"this gateway has {facts.get(fact)!r}"
            )
    for name, size in sizes.items():
        if size != expected[name][0]:
            raise CheckpointTruncated(f"{directory / name} has {size} bytes of {expected[name][0]}")
        got = _sparse_digest(directory) if name == MEMORY else digest(directory / name)
        if got != expected[name][1]:
            raise CheckpointCorrupt(
                f"{directory / name} is not what was written: its digest differs"
            )
    return State(directory, found, hashlib.sha256(text).hexdigest(), key)


def _extents(handle: int) -> Iterator[tuple[int, int]]:
    """Where a sparse file has data: start and end."""
    length, at = os.fstat(handle).st_size, 0
    while at < length:
        try:
            start = os.lseek(handle, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        at = os.lseek(handle, start, os.SEEK_HOLE)
        yield start, at


def _sparse_digest(directory: Path) -> str:
    """Of a memory file: pages that are all zero count as holes, whichever way they are kept."""
    whole = hashlib.sha256()
    nothing = bytes(PIECE)
    with (directory / MEMORY).open("rb", buffering=0) as file:
        room = bytearray(PIECE)
        for start, end in _extents(file.fileno()):
            for at in range(start // PIECE * PIECE, end, PIECE):
                got = os.preadv(file.fileno(), [room], at)
                piece = memoryview(room)[:got]
                if piece != nothing[:got]:
                    whole.update(at.to_bytes(8, "little"))
                    whole.update(piece)
    return whole.hexdigest()


def _dig(path: Path) -> None:
    """Give pieces that are all zero back to the file system."""
    from harness.host.process import run

    with contextlib.suppress(Exception):
        run("fallocate", "--dig-holes", path)


def _copy(source: int, target: int, at: int, end: int) -> None:
    """Copy a range within one file system or, as from a tmpfs to a disk, between two."""
    try:
        while at < end:
            at += os.copy_file_range(source, target, end - at, at, at)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        os.lseek(target, at, os.SEEK_SET)
        while at < end:
            at += os.sendfile(target, source, at, end - at)


def copy_sparse(source: Path, target: Path) -> None:
    """Copy a file's data and leave its holes holes. DiskFull leaves no target."""
    try:
        with source.open("rb") as one, target.open("wb") as other:
            other.truncate(os.fstat(one.fileno()).st_size)
            for start, end in _extents(one.fileno()):
                _copy(one.fileno(), other.fileno(), start, end)
    except OSError as error:
        target.unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"no room for {target}") from error
        raise


def save_memory(pid: int, mapped: str, target: Path) -> None:
    """Write guest memory of a stopped VMM: the file that it maps privately, and its own pages."""
    copy_sparse(Path(mapped), target)
    handle = os.open(target, os.O_WRONLY)
    memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
    try:
        for address, length, offset in _own_pages(pid, mapped):
            for at in range(0, length, PIECE):
                data = os.pread(memory, min(PIECE, length - at), address + at)
                os.pwrite(handle, data, offset + at)
    finally:
        os.close(memory)
        os.close(handle)


def _own_pages(pid: int, mapped: str) -> Iterator[tuple[int, int, int]]:
    """Runs of pages that a process has for itself in mappings of a file: address, bytes, offset."""
    maps = Path(f"/proc/{pid}/maps").read_text()
    pagemap = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY)
    try:
        for line in maps.splitlines():
            found = re.match(r"([0-9a-f]+)-([0-9a-f]+) \S+ ([0-9a-f]+) \S+ \d+\s+(.*)", line)
            if not found or found[4] != mapped:
                continue
            start, end, offset = (int(found[number], 16) for number in (1, 2, 3))
            entries = array("Q")
            entries.frombytes(os.pread(pagemap, (end - start) // PAGE * 8, start // PAGE * 8))
            begun = -1
            for index, entry in enumerate(entries):
                own = entry & _PRESENT_OR_SWAPPED and not entry & _OF_A_FILE
                if own and begun < 0:
                    begun = index
                elif not own and begun >= 0:
                    yield start + begun * PAGE, (index - begun) * PAGE, offset + begun * PAGE
                    begun = -1
            if begun >= 0:
                length = (len(entries) - begun) * PAGE
                yield start + begun * PAGE, length, offset + begun * PAGE
    finally:
        os.close(pagemap)

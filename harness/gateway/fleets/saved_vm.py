"""A microVM saved to disk: memory, devices and disk, for templates, snapshots and pauses.

A saved VM is immutable. Its memory is a sparse file that restored sandboxes map privately, so a
hundred of them share the pages that none has written to. To save a running sandbox, the pages that
its VMM has copied are written over a copy of that file.
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

from harness import strict_json
from harness.errors import (
    CheckpointCorrupt,
    CheckpointForeign,
    CheckpointTruncated,
    CoppiceError,
    DiskFull,
    GuestDied,
)
from harness.host import file_system
from harness.host.locks import half_built, half_built_hint
from harness.host.process import run
from harness.measure.record import Scalar, digest
from harness.sandbox.qemu import processor
from harness.sandbox.qemu.processor import Processor

SCHEMA = "coppice.gateway-state/1"
MEMORY, DEVICES, DISK, MANIFEST = "memory", "devices", "disk.qcow2", "manifest.json"
PAGE = 4096
PIECE = 1 << 20
_PRESENT_OR_SWAPPED, _OF_A_FILE = 0b11 << 62, 1 << 61  # bits of the kernel's pagemap


@dataclass(frozen=True)
class SavedVm:
    """A saved VM that was checked. `facts` describe the VMM and the image that it needs."""

    directory: Path
    facts: Mapping[str, Scalar]
    sha256: str
    key: bytes
    """The key with which its guest signs nonces until it gets a new identity."""

    @property
    def memory(self) -> Path:
        return self.directory / MEMORY

    @property
    def devices(self) -> Path:
        return self.directory / DEVICES

    @property
    def disk(self) -> Path:
        return self.directory / DISK


@contextlib.contextmanager
def writing(
    target: Path, facts: Mapping[str, Scalar], key: bytes, seen: Processor | None = None
) -> Iterator[Path]:
    """A directory for memory, devices and disk, which becomes `target` if the block succeeds.
    `seen` is the processor that its guest saw, where that is the host's."""
    with half_built(target) as directory:
        yield directory
        _punch_holes(directory / MEMORY)
        files = {
            MEMORY: {
                "bytes": (directory / MEMORY).stat().st_size,
                "sha256": _sparse_digest(directory / MEMORY),
            },
            DEVICES: _file_facts(directory / DEVICES),
            DISK: _file_facts(directory / DISK),
        }
        manifest: dict[str, object] = {
            "schema": SCHEMA, "facts": dict(facts), "files": files, "key": key.hex()
        }  # fmt: skip
        if seen:
            manifest["processor"] = dict(seen.facts())
        (directory / MANIFEST).touch(0o600)
        (directory / MANIFEST).write_text(
            json.dumps(manifest, indent=1, sort_keys=True), encoding="utf-8"
        )
        for path in (*directory.iterdir(), directory):
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)  # a saved VM must survive a power failure
            finally:
                os.close(handle)


def _file_facts(path: Path) -> dict[str, int | str]:
    return {"bytes": path.stat().st_size, "sha256": digest(path)}


def load(directory: Path, facts: Mapping[str, Scalar], here: Processor | None = None) -> SavedVm:
    """Open and check a saved VM, which must have been saved with the same `facts`, and whose guest
    must have seen the processor that is shown `here`.

    Raises CheckpointCorrupt, CheckpointTruncated or CheckpointForeign. Reads all of its files.
    """
    try:
        text = (directory / MANIFEST).read_bytes()
        manifest = strict_json.loads(text)
        schema, saved, files = manifest["schema"], manifest["facts"], manifest["files"]
        key = bytes.fromhex(manifest["key"])
        seen = dict(manifest.get("processor", {}).items())
        expected = {name: (files[name]["bytes"], files[name]["sha256"]) for name in files}
        sizes = {name: (directory / name).stat().st_size for name in (MEMORY, DEVICES, DISK)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointCorrupt(f"{directory} does not hold a saved sandbox: {error}") from error
    if schema != SCHEMA:
        raise CheckpointForeign(f"{directory} has the schema {schema!r}, not {SCHEMA!r}")
    processor.check(directory, seen, here)
    for fact in sorted({*saved, *facts}):
        if saved.get(fact) != facts.get(fact):
            raise CheckpointForeign(
                f"{directory} was saved with {fact} = {saved.get(fact)!r}, "
                f"this gateway has {facts.get(fact)!r}"
            )
    for name, size in sizes.items():
        path = directory / name
        if size != expected[name][0]:
            raise CheckpointTruncated(f"{path} has {size} of {expected[name][0]} bytes")
        actual = _sparse_digest(path) if name == MEMORY else digest(path)
        if actual != expected[name][1]:
            raise CheckpointCorrupt(f"{path} is damaged: its digest differs from the manifest's")
    return SavedVm(directory, saved, hashlib.sha256(text).hexdigest(), key)


def _extents(handle: int) -> Iterator[tuple[int, int]]:
    """The start and end of each part of a sparse file that has data."""
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


def _sparse_digest(path: Path) -> str:
    """The digest of a memory file; zero pages count as holes, allocated or not."""
    found = hashlib.sha256()
    zeros = bytes(PIECE)
    with path.open("rb", buffering=0) as file:
        buffer = bytearray(PIECE)
        for start, end in _extents(file.fileno()):
            for at in range(start // PIECE * PIECE, end, PIECE):
                length = os.preadv(file.fileno(), [buffer], at)
                piece = memoryview(buffer)[:length]
                if piece != zeros[:length]:
                    found.update(at.to_bytes(8, "little"))
                    found.update(piece)
    return found.hexdigest()


def _punch_holes(path: Path) -> None:
    """Deallocate zero pages; it saves space only, so a failure does not matter."""
    with contextlib.suppress(CoppiceError, OSError):
        run("fallocate", "--dig-holes", path)


def _copy(source: int, target: int, at: int, end: int) -> None:
    """Copy a range, within a file system or between two (from a tmpfs to a disk)."""
    try:
        while at < end:
            at += os.copy_file_range(source, target, end - at, at, at)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        os.lseek(target, at, os.SEEK_SET)
        while at < end:
            at += os.sendfile(target, source, at, end - at)


@contextlib.contextmanager
def disk_full_named(target: Path) -> Iterator[None]:
    """Raise DiskFull, and remove `target`, where writing it failed because its disk is full: a
    program that writes it may only report that it failed."""
    try:
        yield
    except (CoppiceError, OSError) as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or file_system.of(target.parent).free < PIECE:
            target.unlink(missing_ok=True)
            raise DiskFull(
                f"the disk is full: {target} was not written", hint=half_built_hint(target)
            ) from error
        raise


@contextlib.contextmanager
def full_disk_named(*directories: Path) -> Iterator[None]:
    """Raise DiskFull where a VMM ended while one of these directories had no room. Memory that it
    maps of a file in tmpfs takes room there when it is only read, without which the VMM is killed.
    """
    try:
        yield
    except GuestDied as error:
        for directory in directories:
            if file_system.of(directory).free < PIECE:
                raise DiskFull(
                    f"the disk is full: no sandbox can be restored with files in {directory}",
                    hint="free some space there and try again: what was saved is unchanged",
                ) from error
        raise


def copy_sparse(source: Path, target: Path) -> None:
    """Copy a file and keep its holes. After DiskFull there is no target."""
    target.write_bytes(b"")
    fill_sparse(source, target)


def fill_sparse(source: Path, target: Path) -> None:
    """`copy_sparse` to an empty file that exists; what is reserved for it stays reserved."""
    try:
        with source.open("rb") as from_file, target.open("r+b") as to_file:
            to_file.truncate(os.fstat(from_file.fileno()).st_size)
            for start, end in _extents(from_file.fileno()):
                _copy(from_file.fileno(), to_file.fileno(), start, end)
    except OSError as error:
        target.unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(
                f"the disk is full: {target} was not written", hint=half_built_hint(target)
            ) from error
        raise


def save_memory(pid: int, mapped: str, target: Path) -> None:
    """Write the memory of a stopped guest: the file that its VMM maps, and the pages it copied."""
    copy_sparse(Path(mapped), target)
    handle = os.open(target, os.O_WRONLY)
    memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
    try:
        for address, length, offset in _copied_pages(pid, mapped):
            for at in range(0, length, PIECE):
                data = os.pread(memory, min(PIECE, length - at), address + at)
                _write_all(handle, data, offset + at)
    finally:
        os.close(memory)
        os.close(handle)


def _write_all(handle: int, data: bytes, at: int) -> None:
    """Write all of it: where room runs out, pwrite writes a part and reports no error."""
    left = memoryview(data)
    while left:
        written = os.pwrite(handle, left, at)
        left, at = left[written:], at + written


def _copied_pages(pid: int, mapped: str) -> Iterator[tuple[int, int, int]]:
    """The runs of private pages in a process's mappings of a file: address, bytes, offset."""
    maps = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8")
    pagemap = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY)
    try:
        for line in maps.splitlines():
            mapping = re.match(r"([0-9a-f]+)-([0-9a-f]+) \S+ ([0-9a-f]+) \S+ \d+\s+(.*)", line)
            if not mapping or mapping[4] != mapped:
                continue
            start, end, offset = (int(mapping[group], 16) for group in (1, 2, 3))
            entries = array("Q")
            entries.frombytes(os.pread(pagemap, (end - start) // PAGE * 8, start // PAGE * 8))
            first = -1
            for index, entry in enumerate(entries):
                private = entry & _PRESENT_OR_SWAPPED and not entry & _OF_A_FILE
                if private and first < 0:
                    first = index
                elif not private and first >= 0:
                    yield start + first * PAGE, (index - first) * PAGE, offset + first * PAGE
                    first = -1
            if first >= 0:
                length = (len(entries) - first) * PAGE
                yield start + first * PAGE, length, offset + first * PAGE
    finally:
        os.close(pagemap)

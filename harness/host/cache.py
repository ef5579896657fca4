"""Entries of the cache: built once, sealed with a digest, and checked whenever they are used.

An entry is a directory `cache/KIND/NAME`; its name is a digest of what it is built from. Its seal
is the digest of its content. Reading everything at each use would take seconds, so the inode, size
and times of every file are noted after a check: while they and the boot are the same, no program
has written to the files. An entry that is damaged, or has no seal, is built again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from harness.errors import CoppiceError
from harness.host.locks import HALF_BUILT, half_built

SEAL, CHECKED = ".seal.json", ".checked.json"
"""In an entry: the digest of its content; what the last check saw."""
SCHEMA = "coppice.cache/1"
BLOCK = 1 << 20
BOOT = Path("/proc/sys/kernel/random/boot_id")
_ZEROS = bytes(BLOCK)
log = logging.getLogger("coppice.cache")


def entry(target: Path, fill: Callable[[Path], object]) -> Path:
    """The directory `target`, filled by `fill` unless it is there and intact.

    `fill` gets an empty directory, which becomes `target` when it returns. Raises what it raises,
    and DiskFull.
    """
    damaged = False
    if os.path.lexists(target):
        if is_intact(target):
            return target
        damaged = True
        log.warning("coppice: %s is damaged or has no seal; it is built again", target)
        _discard(target)
    try:
        with half_built(target) as directory:
            fill(directory)
            sealed = {"schema": SCHEMA, "sha256": content_digest(directory)}
            (directory / SEAL).write_text(json.dumps(sealed), encoding="utf-8")
            _note_check(directory)
    except CoppiceError as error:
        if damaged:
            error.add_note(f"{target} in the cache was damaged, so it had to be built again")
        raise
    return target


def is_intact(target: Path) -> bool:
    """Whether an entry has what it had when it was built. Reads all of it only if it changed."""
    try:
        sealed = json.loads((target / SEAL).read_text(encoding="utf-8"))
        if sealed["schema"] != SCHEMA:
            return False
        if _checked(target) == _seen(target):
            return True
        if sealed["sha256"] != content_digest(target):
            return False
    except (OSError, ValueError, KeyError, TypeError):
        return False
    _note_check(target)
    return True


def content_digest(directory: Path) -> str:
    """The SHA-256 of the names, types, modes, owners and contents of all files in a directory,
    without the notes of this module. Holes count as zeros."""
    whole = hashlib.sha256()
    for path, found in _files(directory):
        whole.update(os.fsencode(path.relative_to(directory)) + b"\0")
        whole.update(f"{found.st_mode:o} {found.st_uid} {found.st_gid} ".encode())
        if stat.S_ISLNK(found.st_mode):
            whole.update(os.fsencode(path.readlink()))
        elif stat.S_ISREG(found.st_mode):
            whole.update(f"{found.st_size}\0".encode())
            _add_content(whole, path)
    return whole.hexdigest()


def _add_content(whole: hashlib._Hash, path: Path) -> None:
    """Add the blocks of a file that are not zero, without reading its holes."""
    with path.open("rb", buffering=0) as file:
        at = 0
        while True:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA) // BLOCK * BLOCK
            except OSError:  # no data after this
                return
            os.lseek(file.fileno(), at, os.SEEK_SET)
            block = file.read(BLOCK)
            if block != _ZEROS[: len(block)]:
                whole.update(at.to_bytes(8))
                whole.update(block)
            at += BLOCK


def _files(directory: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for parent, names, files in os.walk(directory):
        names.sort()
        for name in sorted([*files, *names]):
            path = Path(parent, name)
            if path.parent != directory or not name.startswith((SEAL, CHECKED)):
                yield path, path.lstat()


def _seen(directory: Path) -> dict[str, str]:
    """What a write through a file system changes: even one that sets the times back changes ctime.

    After a reboot all is read again, for what storage itself may have damaged.
    """
    whole = hashlib.sha256()
    for path, found in _files(directory):
        facts = (
            found.st_dev, found.st_ino, found.st_mode, found.st_uid, found.st_gid, found.st_size,
            found.st_mtime_ns, found.st_ctime_ns,
        )  # fmt: skip
        whole.update(os.fsencode(path.relative_to(directory)) + f"\0{facts}\0".encode())
    return {
        "boot": BOOT.read_text(encoding="utf-8").strip() if BOOT.exists() else "",
        "files": whole.hexdigest(),
        "seal": (directory / SEAL).read_text(encoding="utf-8"),
    }


def _checked(target: Path) -> object:
    with contextlib.suppress(OSError, ValueError):
        return json.loads((target / CHECKED).read_text(encoding="utf-8"))
    return None


def _note_check(target: Path) -> None:
    """Note what was seen; a cache that cannot be written is read again the next time."""
    with contextlib.suppress(OSError):
        new = target / f"{CHECKED}.{os.getpid()}"
        new.write_text(json.dumps(_seen(target)), encoding="utf-8")
        new.replace(target / CHECKED)


def _discard(target: Path) -> None:
    """Take a damaged entry out of the way at once; programs that use its files keep them."""
    aside = target.with_name(f"{HALF_BUILT}damaged-{os.getpid()}-{target.name[:32]}")
    target.rename(aside)
    if aside.is_dir() and not aside.is_symlink():
        shutil.rmtree(aside, ignore_errors=True)
    else:
        aside.unlink()

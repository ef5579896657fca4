"""The sandboxes' disk: a shared image of Debian, and an overlay for each sandbox.

The image is an ext4 file system built without mounting anything; VMMs open it read-only. What a
sandbox writes goes to its own qcow2 file, which starts empty: a new sandbox copies some hundred
kilobytes, and a snapshot copies what was written.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import paths
from harness.gateway.envd.interpreter import PROGRAM
from harness.guest import rootfs
from harness.guest.rootfs import RootFs
from harness.host.cache import entry
from harness.host.process import need, run
from harness.measure.record import digest

EDITION = 2
"""Raise it when the image is built differently from the same inputs."""
INTERPRETER = paths.ENVD / "interpreter"
"""The directory of the code interpreter's program."""
_MAKE = (
    "-q", "-t", "ext4", "-m", "0",
    # No journal, no checksums: a disk is saved only when its sandbox is stopped, or discarded.
    "-O", "^has_journal,^metadata_csum", "-E", "lazy_itable_init=0,nodiscard",
)  # fmt: skip
# Login scripts take tens of milliseconds under emulation and set nothing that is needed here.
_REMOVED = ("root/.profile", "root/.bashrc", "etc/profile.d", "etc/bash.bashrc")


@dataclass(frozen=True)
class BaseDisk:
    """The image below the overlays; `sha256` is of its inputs."""

    path: Path
    sha256: str
    size_mib: int


def base(cache: Path, size_mib: int) -> BaseDisk:
    """The image, from the cache or built now (seconds, or minutes when Debian is not cached).

    Raises what `rootfs.debian` raises, MissingTool and DiskFull.
    """
    root = rootfs.debian(cache)
    inputs = {
        "root": root.sha256,
        "interpreter": _program_digest(),
        "size_mib": str(size_mib),
        "edition": str(EDITION),
    }
    name = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    target = cache / "disks" / name

    def fill(directory: Path) -> None:
        need("qemu-img")
        run("cp", "-a", "--reflink=auto", root.path, directory / "root")
        _adapt(directory / "root")
        with (directory / "root.raw").open("wb") as file:
            file.truncate(size_mib << 20)
        run("mke2fs", *_MAKE, "-d", directory / "root", directory / "root.raw")
        shutil.rmtree(directory / "root")

    return BaseDisk(entry(target, fill) / "root.raw", name, size_mib)


def empty_image(cache: Path, size_mib: int) -> Path:
    """An image of an empty file system of the sandboxes' size, for containers."""
    name = hashlib.sha256(" ".join((*_MAKE, str(size_mib))).encode()).hexdigest()
    target = cache / "disks" / f"empty-{name}"

    def fill(directory: Path) -> None:
        need("mke2fs")
        with (directory / "image").open("wb") as file:
            file.truncate(size_mib << 20)
        run("mke2fs", *_MAKE, directory / "image")

    return entry(target, fill) / "image"


def root_directory(cache: Path) -> RootFs:
    """The contents of the image as a directory, for containers. Raises what `base` raises."""
    root = rootfs.debian(cache)
    inputs = {
        "root": root.sha256,
        "interpreter": _program_digest(),
        "edition": str(EDITION),
    }
    name = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    target = cache / "roots-gateway" / name

    def fill(directory: Path) -> None:
        run("cp", "-a", "--reflink=auto", root.path, directory / "root")
        _adapt(directory / "root")

    return RootFs("gateway", entry(target, fill) / "root", name, inputs)


def _adapt(root: Path) -> None:
    """Add the user and the interpreter, and remove what slows a first command down."""
    for relative in _REMOVED:
        path = root / relative
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    (root / "etc/profile").write_text("", encoding="utf-8")
    # A static bash: under emulation, dynamic linking is a third of the time of a first command.
    (root / "usr/bin/bash-static").replace(root / "usr/bin/bash")
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n", encoding="utf-8")
    for file, line in (
        ("passwd", "user:x:1000:1000::/home/user:/bin/bash\n"),
        ("group", "user:x:1000:\n"),
        ("shadow", "user:!:19000:0:99999:7:::\n"),
    ):
        path = root / "etc" / file
        path.write_text(path.read_text(encoding="utf-8") + line, encoding="utf-8")
    home = root / "home/user"
    home.mkdir()
    os.chown(home, 1000, 1000)
    _add_interpreter(root / PROGRAM)


def _add_interpreter(target: Path) -> None:
    """Add the program, and the directory that IPython uses as the sandbox's user."""
    for directory in (target.parent, target, target / "ipython"):
        directory.mkdir()
        directory.chmod(0o755)
    os.chown(target / "ipython", 1000, 1000)
    for source in _program_files():
        shutil.copyfile(source, target / source.name)
        (target / source.name).chmod(0o644)


def _program_files() -> Sequence[Path]:
    return sorted(INTERPRETER.glob("*.py"))


def _program_digest() -> str:
    whole = hashlib.sha256()
    for source in _program_files():
        whole.update(f"{source.name} {digest(source)}\n".encode())
    return whole.hexdigest()


def create_overlay(disk: BaseDisk, target: Path) -> None:
    """Create the empty overlay of a sandbox."""
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", disk.path, "-F", "raw", target)


def vmm_arguments(disk: BaseDisk, own: str) -> Sequence[str]:
    """The VMM's arguments for a disk with the overlay `own` over the image."""
    # no-flush: overlays may stay in the host's page cache, since saving copies and syncs them.
    file = "driver=file,locking=off,node-name"
    return (
        "-blockdev", f"{file}=base-file,filename={disk.path},read-only=on",
        "-blockdev", "driver=raw,node-name=base,file=base-file,read-only=on",
        "-blockdev", f"{file}=own-file,filename={own},cache.no-flush=on",
        "-blockdev", "driver=qcow2,node-name=own,file=own-file,backing=base,cache.no-flush=on",
        # By default a VMM whose overlay finds no room stops its guest, which nothing here resumes.
        "-device", "virtio-blk-device,drive=own,werror=report,rerror=report",
    )  # fmt: skip

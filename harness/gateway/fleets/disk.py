"""The sandboxes' disk: one image of Debian for all of them, and what each has written beside it.

The image is an ext4 file system made without mounting anything, read by every VMM and written by
none. What a sandbox writes goes to a qcow2 file of its own, which begins empty: a new sandbox
copies some hundred kilobytes, and a snapshot copies what was written.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import paths
from harness.guest import rootfs
from harness.guest.rootfs import RootFs
from harness.host.locks import half_built
from harness.host.process import need, run
from harness.measure.record import Image, digest

SIZE_MIB = 4096
"""What a sandbox sees; the file takes what is used of it."""
EDITION = 2
KERNEL_PROGRAM = paths.ENVD / "interpreter.py"
INTERPRETER = "usr/local/lib/coppice/interpreter.py"
_MAKE = (
    "-q", "-t", "ext4", "-m", "0",
    # No journal, no checksums: a sandbox that dies is gone, and one that is saved is saved whole.
    "-O", "^has_journal,^metadata_csum", "-E", "lazy_itable_init=0,nodiscard",
)  # fmt: skip
# Scripts that a login runs cost tens of milliseconds under emulation, and say nothing here.
_NOT_KEPT = ("root/.profile", "root/.bashrc", "etc/profile.d", "etc/bash.bashrc")


@dataclass(frozen=True)
class BaseDisk:
    """An image that overlays lie on; `sha256` is of what it was made from."""

    path: Path
    sha256: str
    built_from: Mapping[str, str]

    def as_record(self) -> Image:
        return Image("disk", self.sha256, self.built_from)


def base(cache: Path) -> BaseDisk:
    """The image, from the cache or made now (some seconds; some minutes where Debian is not there).

    Raises what `rootfs.debian` raises, MissingTool and DiskFull.
    """
    root = rootfs.debian(cache)
    inputs = {
        "root": root.sha256,
        "interpreter": digest(KERNEL_PROGRAM),
        "size_mib": str(SIZE_MIB),
        "edition": str(EDITION),
    }
    name = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    target = cache / "disks" / name
    if not target.exists():
        need("qemu-img")
        with half_built(target) as directory:
            run("cp", "-a", "--reflink=auto", root.path, directory / "root")
            _settle(directory / "root")
            with (directory / "root.raw").open("wb") as file:
                file.truncate(SIZE_MIB << 20)
            # Not even times differ from one to the next.
            run("mke2fs", *_MAKE, "-d", directory / "root", directory / "root.raw")
            shutil.rmtree(directory / "root")
    return BaseDisk(target / "root.raw", name, inputs)


def empty(cache: Path) -> Path:
    """An image of a file system of the sandboxes' size with nothing in it, for containers."""
    words = hashlib.sha256(" ".join((*_MAKE, str(SIZE_MIB))).encode()).hexdigest()
    target = cache / "disks" / f"empty-{words}"
    if not target.exists():
        need("mke2fs")
        with half_built(target) as directory:
            with (directory / "image").open("wb") as file:
                file.truncate(SIZE_MIB << 20)
            run("mke2fs", *_MAKE, directory / "image")
    return target / "image"


def settled(cache: Path) -> RootFs:
    """What the image holds as a directory, for containers. Raises what `base` raises."""
    root = rootfs.debian(cache)
    inputs = {
        "root": root.sha256,
        "interpreter": digest(KERNEL_PROGRAM),
        "edition": str(EDITION),
    }
    name = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    target = cache / "roots-gateway" / name
    if not target.exists():
        with half_built(target) as directory:
            run("cp", "-a", "--reflink=auto", root.path, directory / "root")
            _settle(directory / "root")
    return RootFs("gateway", target / "root", name, inputs)


def _settle(root: Path) -> None:
    """A user, and what makes a first command quick."""
    for relative in _NOT_KEPT:
        path = root / relative
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    (root / "etc/profile").write_text("")
    # Bash that needs no libraries: under emulation to link them is a third of a first command.
    (root / "usr/bin/bash-static").replace(root / "usr/bin/bash")
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n")
    for file, line in (
        ("passwd", "user:x:1000:1000::/home/user:/bin/bash\n"),
        ("group", "user:x:1000:\n"),
        ("shadow", "user:!:19000:0:99999:7:::\n"),
    ):
        path = root / "etc" / file
        path.write_text(path.read_text() + line)
    home = root / "home/user"
    home.mkdir()
    os.chown(home, 1000, 1000)
    interpreter = root / INTERPRETER
    interpreter.parent.mkdir(parents=True)
    shutil.copyfile(KERNEL_PROGRAM, interpreter)


def overlay(disk: BaseDisk, target: Path) -> None:
    """An empty file for what one sandbox writes."""
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", disk.path, "-F", "raw", target)


def words(disk: BaseDisk, own: str) -> Sequence[str]:
    """Arguments of the VMM that make `own`, over the image, the guest's disk."""
    # The page cache of this host is where a sandbox's disk lives: nothing waits for the real one.
    file = "driver=file,locking=off,node-name"
    return (
        "-blockdev", f"{file}=base-file,filename={disk.path},read-only=on",
        "-blockdev", "driver=raw,node-name=base,file=base-file,read-only=on",
        "-blockdev", f"{file}=own-file,filename={own},cache.no-flush=on",
        "-blockdev", "driver=qcow2,node-name=own,file=own-file,backing=base,cache.no-flush=on",
        "-device", "virtio-blk-device,drive=own",
    )  # fmt: skip

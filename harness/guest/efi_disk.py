"""A Linux guest for bhyve: QEMU's kernel and initramfs on a disk that a bootrom starts from.

Both are made on Linux (harness/guest/image.py), and named by their paths on the FreeBSD host. The
bootrom finds no program of the name that it starts by itself; its shell, which it tries last, runs
`startup.nsh` after some seconds, and so the kernel's EFI stub, with its arguments. A bootrom that
boots from networks may try the guest's card before. com1 is the agent's: what the bootrom prints
there the harness steps over.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass

from harness.errors import ImageError, UsageError
from harness.guest.freebsd import building
from harness.host.protocol import Host, must
from harness.measure.record import Image

KERNEL = "COPPICE_KERNEL"
INITRAMFS = "COPPICE_INITRAMFS"
MIB = 1 << 20
SPARE_MIB = 4
LEAST_MIB = 36
"""Smaller ones are no FAT16."""


@dataclass(frozen=True)
class LinuxImage:
    """A directory on the host that holds `disk`; `sha256` is of the disk's files."""

    directory: str
    sha256: str
    built_from: Mapping[str, str]

    @property
    def disk(self) -> str:
        return f"{self.directory}/disk"

    def as_record(self, name: str) -> Image:
        return Image(name, self.sha256, self.built_from)


def is_requested() -> bool:
    """Whether guests are to be Linux."""
    return bool(os.environ.get(INITRAMFS))


def build(host: Host, cache: str, arguments: str) -> LinuxImage:
    """The disk of these files, from the host's cache or built now with its makefs; `arguments` are
    the kernel's.

    Raises UsageError, ImageError (a kernel that no bootrom starts) and DiskFull.
    """
    kernel, initramfs = os.environ.get(KERNEL), os.environ[INITRAMFS]
    if not kernel:
        raise UsageError(
            f"{INITRAMFS} is set and {KERNEL} is not: a Linux guest needs both",
            hint=f"name there the vmlinuz of that host that goes with {initramfs}",
        )
    if host.run(["head", "-c", "2", kernel]).stdout != b"MZ":
        raise ImageError(
            f"{kernel} is no kernel that a bootrom starts: a vmlinuz with an EFI stub is one",
            hint="an ELF vmlinux has none: name the vmlinuz that it was unpacked from",
        )
    found = {
        "kernel_sha256": must(host, ["sha256", "-q", kernel]).text,
        "initramfs_sha256": must(host, ["sha256", "-q", initramfs]).text,
        "kernel_arguments": arguments,
    }
    name = hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()
    image = LinuxImage(f"{cache}/linux/{name[:16]}", name, found)
    if host.run(["test", "-e", image.disk]).code:
        with building(host, image.directory) as half:
            _fill(host, half, kernel, initramfs, arguments)
    return image


def _fill(host: Host, half: str, kernel: str, initramfs: str, arguments: str) -> None:
    files = f"{half}/files"
    must(host, ["mkdir", files])
    must(host, ["cp", kernel, f"{files}/vmlinuz.efi"])
    must(host, ["cp", initramfs, f"{files}/initramfs"])
    script = f"fs0:\r\nvmlinuz.efi initrd=\\initramfs {arguments}\r\n"
    host.put(script.encode(), f"{files}/startup.nsh")
    sizes = must(host, ["stat", "-f", "%z", kernel, initramfs]).text.split()
    mib = max(LEAST_MIB, sum(map(int, sizes)) // MIB + SPARE_MIB)
    must(host, ["makefs", "-t", "msdos", "-s", f"{mib}m", "-o", "fat_type=16",
                f"{half}/disk", files])  # fmt: skip
    must(host, ["rm", "-r", files])

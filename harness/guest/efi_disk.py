"""A Linux guest for bhyve: QEMU's kernel and initramfs on a disk that a UEFI bootrom boots.

Both are built on Linux (harness/guest/image.py) and given by their paths on the FreeBSD host. The
disk has no default boot program, so after some seconds the bootrom falls back to its shell, which
runs `startup.nsh`: the kernel's EFI stub with its arguments. A bootrom may try to boot from the
NIC before. com1 is the agent's channel; the harness skips what the bootrom prints on it.
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
"""A smaller file system cannot be FAT16."""


@dataclass(frozen=True)
class LinuxImage:
    """A directory on the host that contains `disk`; `sha256` identifies the disk's files."""

    directory: str
    sha256: str
    built_from: Mapping[str, str]

    @property
    def disk(self) -> str:
        return f"{self.directory}/disk"

    def as_record(self, name: str) -> Image:
        return Image(name, self.sha256, self.built_from)


def is_requested() -> bool:
    """Whether guests should run Linux."""
    return bool(os.environ.get(INITRAMFS))


def build(host: Host, cache: str, arguments: str) -> LinuxImage:
    """The disk with these kernel `arguments`, from the host's cache or built now with its makefs.

    Raises UsageError (no kernel is named), ImageError (a kernel without an EFI stub), DiskFull.
    """
    kernel, initramfs = os.environ.get(KERNEL), os.environ[INITRAMFS]
    if not kernel:
        raise UsageError(
            f"{INITRAMFS} is set, but {KERNEL} is not: a Linux guest needs both",
            hint=f"set {KERNEL} to the path, on that host, of the vmlinuz for {initramfs}",
        )
    if host.run(["head", "-c", "2", kernel]).stdout != b"MZ":
        raise ImageError(
            f"{kernel} has no EFI stub, so a bootrom cannot boot it",
            hint="name a vmlinuz; an ELF vmlinux that was unpacked from one has no EFI stub",
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

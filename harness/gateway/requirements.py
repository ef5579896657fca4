"""What the gateway requires of the host, for `coppice doctor`."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Sequence

from harness import extras
from harness.gateway.options import DISK_MIB
from harness.host import disk_place
from harness.host.process import install_command
from harness.host.requirement import Requirement
from harness.paths import runtime_directory
from harness.sandbox.qemu.requirements import requirements as of_qemu

PROGRAMS = ("qemu-img", "mke2fs", "debootstrap")
PACKAGES = ("starlette", "uvicorn", "uvloop", "httptools", "python_multipart")


def _place_of_disks() -> Requirement:
    runtime = runtime_directory()
    place = disk_place.DiskPlace(disk_place.chosen(runtime), DISK_MIB << 20)
    return Requirement(
        "place of disks",
        place.room() > 0,
        disk_place.described(runtime, DISK_MIB),
        f"set {disk_place.VARIABLE} to a directory with more room",
    )


def requirements() -> Sequence[Requirement]:
    """Programs, Python packages and privileges."""
    found = list(of_qemu())
    for program in PROGRAMS:
        path = shutil.which(program)
        found.append(
            Requirement(
                program, path is not None, path or "not installed", install_command(program)
            )
        )
    found += packages()
    found.append(_place_of_disks())
    root = os.geteuid() == 0
    found.append(Requirement("root", root, "for the sandboxes' root file system", "run as root"))
    return found


def packages() -> Sequence[Requirement]:
    """The Python packages alone, for a gateway without real sandboxes."""
    found = []
    for package in PACKAGES:
        there = importlib.util.find_spec(package) is not None
        detail = "installed" if there else "not installed"
        found.append(Requirement(package, there, detail, extras.install_command()))
    return found

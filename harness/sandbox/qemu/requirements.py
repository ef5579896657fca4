"""What the qemu substrate needs on this host, for `coppice doctor`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence

from harness.host import runtime_place
from harness.host.process import install_command
from harness.host.requirement import Requirement
from harness.sandbox.qemu.accelerator import KVM
from harness.sandbox.qemu.machine import PROGRAM

BUILDS_THE_GUEST = ("musl-gcc", "busybox", "lz4", "zstd", "dpkg-deb")


def requirements() -> Sequence[Requirement]:
    """Programs, a guest kernel, and whether /dev/kvm opens; no guest is booted here."""
    lines = []
    for program in (PROGRAM, *BUILDS_THE_GUEST):
        path = shutil.which(program)
        lines.append(
            Requirement(
                program, path is not None, path or "not installed", install_command(program)
            )
        )
    kernel = os.environ.get("COPPICE_KERNEL") or shutil.which("apt-get")
    lines.append(
        Requirement(
            "guest kernel",
            kernel is not None,
            os.environ.get("COPPICE_KERNEL") or "from the distribution's cloud kernel package",
            "set COPPICE_KERNEL to a vmlinux or bzImage",
        )
    )
    lines.append(runtime_place.requirement())
    opens = os.access(KVM, os.R_OK | os.W_OK)
    detail = "opens; used once a guest has answered under it" if opens else "does not open"
    lines.append(Requirement(str(KVM), True, f"{detail}; TCG otherwise"))
    return lines

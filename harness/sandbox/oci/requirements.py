"""What the oci substrates need on this host, for `coppice doctor`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from harness.host import cgroups
from harness.host.process import install_command
from harness.host.requirement import Requirement
from harness.network.requirements import requirements as of_a_network
from harness.sandbox.oci.runc import PROGRAM

BUILDS_A_ROOT = ("musl-gcc", "busybox", "cp")
_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")


def requirements(*, overlay: bool, network: bool) -> Sequence[Requirement]:
    """Programs, privileges, kernel features; limits it cannot set are reported, not required."""
    lines = [
        Requirement(
            "root", os.geteuid() == 0, "yes" if os.geteuid() == 0 else "no",
            "run it again as root, or with sudo",
        )
    ]  # fmt: skip
    for program in (PROGRAM, *BUILDS_A_ROOT):
        path = shutil.which(program)
        lines.append(
            Requirement(
                program, path is not None, path or "not installed", install_command(program)
            )
        )
    absent = [name for name in _NAMESPACES if not Path(f"/proc/self/ns/{name}").exists()]
    lines.append(
        Requirement(
            "namespaces", not absent, f"no {', '.join(absent)}" if absent else "every kind",
            "a kernel that has them",
        )
    )  # fmt: skip
    if "user" not in absent:
        most = int(Path("/proc/sys/user/max_user_namespaces").read_text(encoding="utf-8"))
        lines.append(
            Requirement(
                "user namespaces", most > 0, f"{most} at most",
                "sysctl user.max_user_namespaces=10000",
            )
        )  # fmt: skip
    if overlay:
        known = "overlay" in Path("/proc/filesystems").read_text(encoding="utf-8").split()
        lines.append(
            Requirement(
                "overlayfs", known, "known to the kernel" if known else "not loaded",
                "modprobe overlay   (as root)",
            )
        )  # fmt: skip
    lines.append(_limits())
    if network:
        lines += of_a_network()
    return lines


def _limits() -> Requirement:
    """Always satisfied: sandboxes run without limits too, and the detail reports it."""
    found = cgroups.find()
    if not found.version:
        detail = "no control groups that this process may use: sandboxes are not limited"
    elif found.unlimited:
        detail = f"control groups v{found.version}, which cannot limit {', '.join(found.unlimited)}"
    else:
        detail = f"memory, processes and CPU, by control groups v{found.version}"
    return Requirement("limits", True, detail)

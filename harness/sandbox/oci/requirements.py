"""What the oci substrates need on this host, for `coppice doctor`."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from harness.host import cgroups, file_system, mounts, runtime_place
from harness.host.process import install_command
from harness.host.requirement import Requirement
from harness.network.requirements import requirements as of_a_network
from harness.paths import runtime_directory
from harness.sandbox.oci.runc import PROGRAM

BUILDS_A_ROOT = ("musl-gcc", "busybox", "cp")
_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
_UNSHARE = ("--user", "--map-root-user", "--mount", "--net", "--pid", "--ipc", "--uts", "--cgroup")


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
    if not absent:
        lines[-1] = _namespaces()
    lines.append(runtime_place.requirement())
    if "user" not in absent:
        most = int(Path("/proc/sys/user/max_user_namespaces").read_text(encoding="utf-8"))
        lines.append(
            Requirement(
                "user namespaces", most > 0, f"{most} at most",
                "sysctl user.max_user_namespaces=10000",
            )
        )  # fmt: skip
    if overlay:
        lines.append(_overlay())
    lines.append(_limits())
    if network:
        lines += of_a_network()
    return lines


def _overlay() -> Requirement:
    """Mounts one where containers will have theirs."""
    place = file_system.existing(runtime_directory())
    try:
        with tempfile.TemporaryDirectory(prefix="doctor-", dir=place) as name:
            for part in ("lower", "upper", "work", "root"):
                Path(name, part).mkdir()

            def attempt() -> None:
                # Relative, since a path may contain the separators of options. This thread has a
                # working directory of its own, with its own mounts.
                os.chdir(name)
                options = "lowerdir=lower,upperdir=upper,workdir=work"
                mounts.mount("overlay", Path("root"), "overlay", 0, options)

            mounts.in_scratch_mounts(attempt)
    except OSError as error:
        return Requirement(
            "overlayfs", False, f"cannot be mounted in {place}: {error.strerror}",
            "modprobe overlay   (as root); in a container, set COPPICE_RUNTIME to a directory that "
            "is not on an overlay itself",
        )  # fmt: skip
    return Requirement("overlayfs", True, f"mounted and unmounted in {place}")


def _namespaces() -> Requirement:
    """Makes one of each kind, with a user and a /proc inside, as runc does."""
    kinds = " ".join(_UNSHARE)
    try:
        done = subprocess.run(
            ["unshare", *_UNSHARE, "--mount-proc", "--fork", "true"],
            capture_output=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return Requirement("namespaces", False, f"unshare {kinds}: {error}", "install util-linux")
    made = done.returncode == 0
    why = done.stderr.decode(errors="replace").strip() or f"exit code {done.returncode}"
    return Requirement(
        "namespaces", made, "every kind was made" if made else why,
        "a kernel and a container that allow them, and a /proc without read-only or hidden parts "
        "(docker run --security-opt systempaths=unconfined)",
    )  # fmt: skip


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

"""What the qemu substrate needs on this host, for `coppice doctor`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence

from harness.errors import CoppiceError, DiskFull, LimitReached, UsageError
from harness.failures import typed
from harness.guest import kernel_choice
from harness.host import kvm_device, runtime_place
from harness.host.process import install_command
from harness.host.requirement import Requirement
from harness.paths import cache_directory
from harness.sandbox.qemu import hardware_choice, packets
from harness.sandbox.qemu.confinement import VARIABLE
from harness.sandbox.qemu.hardware_choice import ACCELERATOR
from harness.sandbox.qemu.jail import examine
from harness.sandbox.qemu.machine import PROGRAM

BUILDS_THE_GUEST = ("musl-gcc", "busybox", "lz4", "zstd", "dpkg-deb")


def requirements() -> Sequence[Requirement]:
    """Programs, a guest kernel, whether /dev/kvm opens and VMMs can be confined; no guest is booted
    here."""
    lines = []
    for program in (PROGRAM, *BUILDS_THE_GUEST):
        path = shutil.which(program)
        lines.append(
            Requirement(
                program, path is not None, path or "not installed", install_command(program)
            )
        )
    lines.append(_kernel())
    lines.append(runtime_place.requirement())
    lines.append(_accelerator())
    if kvm_device.refusal(kvm_device.KVM) is None:
        mover = packets.examine()
        lines.append(Requirement("packets under KVM", True, f"moved by {mover.by}: {mover.reason}"))
    if all(line.satisfied for line in lines):
        lines.append(_confinement())
    return lines


def _kernel() -> Requirement:
    """Whether the kernel of choice is there; the distribution's is downloaded when it is needed."""
    choice = kernel_choice.named()
    if choice == kernel_choice.DISTRIBUTION:
        found = shutil.which("apt-get") is not None
        detail = "from the distribution's cloud kernel package" if found else "apt-get is missing"
        return Requirement("guest kernel", found, detail, "set COPPICE_KERNEL to a kernel's file")
    try:
        kernel_choice.check(cache_directory())
    except CoppiceError as error:
        return Requirement("guest kernel", False, str(error.args[0]), error.hint)
    return Requirement("guest kernel", True, choice)


def _accelerator() -> Requirement:
    """KVM, which is needed only where the user insists on it; no guest is booted."""
    device = str(kvm_device.KVM)
    try:
        insisted = hardware_choice.accelerator() == "kvm"
        hardware_choice.check(os.environ)
    except UsageError as error:
        return Requirement("usable COPPICE_ variables", False, str(error.args[0]), error.hint)
    refused = kvm_device.refusal(kvm_device.KVM)
    if refused and insisted:
        detail = f"{refused.args[0]}, and {ACCELERATOR}=kvm insists on it"
        return Requirement(device, False, detail, refused.hint)
    detail = str(refused.args[0]) if refused else "opens; used once a guest has answered under it"
    return Requirement(device, True, f"{detail}; TCG otherwise")


def _confinement() -> Requirement:
    """Whether VMMs can be confined as they will be, by confining one that ends at once."""
    remedy = f"run it as root; or {VARIABLE}=partial, which records report"
    try:
        found = examine().facts()
    except (CoppiceError, OSError) as error:
        if isinstance(known := typed(error), LimitReached | DiskFull):
            raise known from error  # that passes, and says nothing about this host
        return Requirement("confinement of VMMs", False, str(error.args[0]), remedy)
    detail = f"{found['level']}: {found['applied']}"
    if found["lacking"] != "nothing":
        detail += f"; not applied: {found['lacking']}"
    return Requirement("confinement of VMMs", True, detail)

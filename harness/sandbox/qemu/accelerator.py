"""The choice of accelerator: KVM if a guest has answered under it, else TCG.

`/dev/kvm` may open and still be unable to run an unmodified Linux guest (a paravirtual KVM inside
a VM, for example). So a guest is booted once; the result is cached by kernel, VMM and image.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
from dataclasses import dataclass
from pathlib import Path

from harness.errors import CoppiceError, UsageError
from harness.guest.image import Addition, GuestImage, build
from harness.host.cache import entry
from harness.host.identity import allocate
from harness.host.run import Run
from harness.sandbox.qemu.jail import jail_for
from harness.sandbox.qemu.machine import Shape, arguments, qemu_version
from harness.sandbox.qemu.sandbox import QemuSandbox
from harness.sandbox.qemu.vmm import inherited, opened, spawn
from harness.sandbox.vm_state import VmState

KVM = Path("/dev/kvm")
LIMIT_S = 10.0
CHOICE = "choice.json"


@dataclass(frozen=True)
class Accelerator:
    """`name` is kvm or tcg, `reason` why it was chosen."""

    name: str
    reason: str


def choose(run: Run, cache: Path, image: GuestImage) -> Accelerator:
    """KVM when a guest answers under it within the limit. COPPICE_ACCELERATOR overrides."""
    named = os.environ.get("COPPICE_ACCELERATOR")
    if named:
        if named not in ("kvm", "tcg"):
            raise UsageError(f"COPPICE_ACCELERATOR is {named!r}; it must be kvm or tcg")
        return Accelerator(named, "set in COPPICE_ACCELERATOR")
    if not os.access(KVM, os.R_OK | os.W_OK):
        return Accelerator("tcg", f"{KVM} cannot be opened")
    tried = json.dumps([platform.release(), qemu_version(), image.sha256])
    target = cache / "accelerators" / hashlib.sha256(tried.encode()).hexdigest()

    def fill(directory: Path) -> None:
        (directory / CHOICE).write_text(
            json.dumps(dataclasses.asdict(_try_kvm(run, image))), encoding="utf-8"
        )

    return Accelerator(**json.loads((entry(target, fill) / CHOICE).read_text(encoding="utf-8")))


def of_microvms(run: Run, cache: Path, addition: Addition | None = None) -> str:
    """The accelerator of this host's microVMs with this image, by its name."""
    return choose(run, cache, build(cache, addition)).name


def _try_kvm(run: Run, image: GuestImage) -> Accelerator:
    shape = Shape("kvm")
    identity = allocate(run.leases, run.id)
    with opened(image.kernel, image.initramfs) as (kernel, initramfs):
        vmm = spawn(
            run,
            f"kvm-trial-{identity.id}",
            lambda ends: arguments(
                shape, "kvm-trial", ends, kernel=inherited(kernel), initramfs=inherited(initramfs)
            ),
            incoming=False,
            given=[kernel, initramfs],
            jail=jail_for(run, identity, shape),
        )
    guest = QemuSandbox(vmm, identity, VmState.BOOTING)
    try:
        guest.vmm.greeting(LIMIT_S)
        guest.awaken(LIMIT_S)
        return Accelerator("kvm", f"a guest answered under {KVM}")
    except CoppiceError as error:
        return Accelerator("tcg", f"no guest answered under {KVM}: {error.args[0]}")
    finally:
        guest.destroy()

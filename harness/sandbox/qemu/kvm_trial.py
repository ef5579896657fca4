"""Tries whether a guest answers under KVM.

`/dev/kvm` may open and still be unable to run an ordinary Linux guest: a paravirtual KVM inside a
VM, for example, or one that refuses a register or a request. So a VMM is asked for its processor,
the speed of a guest's kernel mode is measured, then a guest is booted.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

from harness.errors import GuestTimeout, SandboxError
from harness.guest.image import GuestImage
from harness.host.exit_cost import facts as exit_cost_facts
from harness.host.exit_cost import kernel_mode_emulated
from harness.host.identity import allocate
from harness.host.kvm_device import KVM
from harness.host.run import Run
from harness.sandbox.qemu import processor_time
from harness.sandbox.qemu.decisions import Outcome
from harness.sandbox.qemu.examination import examine
from harness.sandbox.qemu.jail import jail_for
from harness.sandbox.qemu.machine import Shape, arguments
from harness.sandbox.qemu.processor_time import ProcessorTime
from harness.sandbox.qemu.sandbox import QemuSandbox
from harness.sandbox.qemu.vmm import inherited, opened, spawn
from harness.sandbox.vm_state import VmState

LOOK_S = 1.0
STILL_S, LEAST_S = 8.0, 0.05
"""A guest that wants less processor time than LEAST_S in STILL_S seconds stands still."""
ENOUGH_S = 5.0
"""Processor seconds of many boots: a guest that had them and is silent will not answer soon."""
LIMIT_S = 90.0
GREETING_S = 30.0
UNREADABLE = "failed to set MSR 0x10a"
WITHOUT = "-arch-capabilities"
"""The flag of the register that some KVMs announce and then refuse."""


@dataclass(frozen=True)
class Trial:
    """What was seen, and the processor model with which it was."""

    outcome: Outcome
    reason: str
    cpu: str


def usable_model(run: Run, shape: Shape) -> tuple[Shape, str]:
    """The shape with a model that this KVM provides and with the processor that its guest sees; and
    what was left out, for a reason, or nothing. Raises what `examine` raises."""
    try:
        return replace(shape, cpu=shape.cpu_model, processor=examine(run, shape)), ""
    except SandboxError as error:
        if UNREADABLE not in str(error) or WITHOUT in shape.cpu_model:
            raise
    less = replace(shape, cpu=f"{shape.cpu_model},{WITHOUT}")
    return (
        replace(less, processor=examine(run, less)),
        "without ARCH_CAPABILITIES, whose register (MSR 0x10a) this KVM announces and refuses",
    )


def try_kvm(run: Run, cache: Path, image: GuestImage, shape: Shape) -> Trial:
    """Boot a guest of this shape. Raises what says nothing about KVM: no such model, no room."""
    try:
        shape, without = usable_model(run, shape)
        less = f" {without}" if without else ""
        # It may boot in minutes; emulation by QEMU is quicker, and the host's own is no hardware.
        if emulated := kernel_mode_emulated(exit_cost_facts(cache, KVM)):
            return Trial(Outcome.REFUSED, emulated, shape.cpu_model)
        trial = _boot(run, image, shape)
        return replace(trial, reason=trial.reason + less)
    except GuestTimeout as error:  # of the VMM itself
        why = f"this host was too busy to try {KVM}: {error.args[0]}"
        return Trial(Outcome.BUSY, why, shape.cpu_model)
    except SandboxError as error:
        if type(error) is SandboxError:  # nothing of the guest: it could not be confined
            raise
        why = f"no guest answered under {KVM}: {error.args[0]}"
        return Trial(Outcome.REFUSED, why, shape.cpu_model)


def _boot(run: Run, image: GuestImage, shape: Shape) -> Trial:
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
        guest.vmm.greeting(GREETING_S)
        return _awaited(guest, shape.cpu_model)
    finally:
        guest.destroy()


def _awaited(guest: QemuSandbox, cpu: str) -> Trial:
    begun = moved = time.monotonic()
    had = ProcessorTime(0.0, 0.0)
    while True:
        try:
            guest.awaken(LOOK_S)
            return Trial(Outcome.ANSWERED, f"a guest answered under {KVM}", cpu)
        except GuestTimeout:
            now = time.monotonic()
        found = processor_time.of(guest.vmm.process.pid)
        if found is None:  # not known: elapsed time counts
            found = ProcessorTime(now - begun, 0.0)
        if found.wanted - had.wanted > LEAST_S:
            had, moved = found, now
        spent = f"in {now - begun:.0f} s, of which it had a processor for {found.used:.1f} s"
        if now - moved > STILL_S:
            why = f"it stands still: no answer {spent}"
        elif found.used > ENOUGH_S:
            why = f"no answer {spent}, and a boot takes less than one"
        elif now - begun > LIMIT_S:
            return Trial(
                Outcome.BUSY, f"this host was too busy to try {KVM}: no answer {spent}", cpu
            )
        else:
            continue
        return Trial(Outcome.REFUSED, f"no guest answered under {KVM}: {why}", cpu)

"""The choice of accelerator and processor model for guests of QEMU: one for all of this host.

KVM if a guest has answered under it, else TCG. Everything that starts QEMU asks here.
"""

from __future__ import annotations

import hashlib
import platform
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from harness.errors import SandboxError, Unsupported, UsageError
from harness.guest.image import Addition, GuestImage, build
from harness.host import exit_cost, kvm_device
from harness.host.run import Run
from harness.measure.record import Image, Scalar
from harness.measure.used_images import use
from harness.sandbox.qemu import decisions, hardware_choice, processor
from harness.sandbox.qemu.decisions import Decision, Outcome
from harness.sandbox.qemu.hardware_choice import ACCELERATOR
from harness.sandbox.qemu.kvm_trial import try_kvm, usable_model
from harness.sandbox.qemu.machine import Shape, kernel_arguments, qemu_version


@dataclass(frozen=True)
class Accelerator:
    """`reason` says why it was chosen. `shape` is what guests get that name nothing else; `usable`:
    /dev/kvm opens. `tried` is when KVM was tried, in Unix time; None: it was not."""

    reason: str
    shape: Shape
    usable: bool = False
    tried: float | None = None

    @property
    def name(self) -> str:
        return self.shape.accelerator

    @property
    def cpu(self) -> str:
        """The model, as QEMU takes it."""
        return self.shape.cpu_model

    def as_record(self) -> Image:
        """For the record: the digest is of what decides figures, so not of the reason."""
        facts: dict[str, Scalar] = {
            "name": self.name,
            "cpu": self.cpu,
            "reason": self.reason,
            "kvm_opens": self.usable,
        }
        if self.tried is not None:
            facts["tried"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.tried))
        if self.shape.processor:
            facts |= self.shape.processor.facts()
        return Image("accelerator", _digest([self.name, self.cpu]), facts)


def _digest(facts: object) -> str:
    return hashlib.sha256(repr(facts).encode()).hexdigest()


def choose(run: Run, cache: Path, image: GuestImage, again: bool = False) -> Accelerator:
    """KVM where a guest answers under it, else TCG; with the processor model of all guests.

    COPPICE_ACCELERATOR overrides, COPPICE_CPU names the model. `again` tries KVM anew. The choice
    goes on the record. Raises UsageError, MissingPrivilege or Unsupported where the user insists on
    what this host cannot do.
    """
    found = _choose(run, cache, image, again)
    use(found.as_record())
    return found


def of_microvms(run: Run, cache: Path, addition: Addition | None = None) -> str:
    """The accelerator of this host's microVMs with this image, by its name."""
    return choose(run, cache, build(cache, addition)).name


def asked() -> Shape:
    """What the environment asks for, under KVM. Raises UsageError."""
    shape = Shape("kvm", cpu=processor.wanted())
    machine = hardware_choice.machine()
    return replace(shape, machine=machine) if machine else shape


def of_host(shape: Shape) -> Mapping[str, str]:
    """What a decision on KVM holds for, apart from the guest."""
    return {
        "kernel": platform.release(), "qemu": qemu_version(), "processor": decisions.host(),
        "module": exit_cost.module() or "", "cpu": shape.cpu_model, "machine": shape.machine,
    }  # fmt: skip


def _choose(run: Run, cache: Path, image: GuestImage, again: bool) -> Accelerator:
    insisted, shape = hardware_choice.accelerator(), asked()
    refused = kvm_device.refusal(kvm_device.KVM)
    if insisted == "kvm":
        if refused:
            raise refused
        return _insisted(run, shape)
    if insisted == "tcg":
        return _emulated(run, shape, f"set in {ACCELERATOR}", usable=refused is None)
    if refused:
        return _emulated(run, shape, str(refused.args[0]), usable=False)
    line = _digest(kernel_arguments(shape))
    of = {**of_host(shape), "image": image.sha256, "kernel_arguments": line}

    def trial() -> Decision:
        found = try_kvm(run, cache, image, shape)
        return Decision(found.outcome, found.reason, found.cpu, time.time(), of)

    decision = decisions.decide(cache, of, again, trial)
    if decision.outcome is Outcome.ANSWERED:
        try:
            seen, _ = _usable(run, replace(shape, cpu=decision.cpu))
            return Accelerator(decision.reason, seen, True, decision.tried)
        except SandboxError:  # this KVM has changed since
            decision = decisions.decide(cache, of, True, trial)
    return _emulated(run, shape, decision.reason, usable=True, tried=decision.tried)


def _insisted(run: Run, shape: Shape) -> Accelerator:
    try:
        seen, less = _usable(run, shape)
    except SandboxError as error:
        raise Unsupported(
            f"{ACCELERATOR}=kvm, but no VMM starts under {kvm_device.KVM}: {error.args[0]}",
            hint=f"{ACCELERATOR}=tcg emulates",
        ) from error
    return Accelerator(f"set in {ACCELERATOR}" + (f"; {less}" if less else ""), seen, True)


def _emulated(
    run: Run, shape: Shape, reason: str, usable: bool, tried: float | None = None
) -> Accelerator:
    if shape.cpu.partition(",")[0] == processor.HOST:
        raise UsageError(
            f"{processor.VARIABLE}={shape.cpu} needs KVM, and guests are emulated here: {reason}",
            hint=f"name another model ({processor.LIST}), or none",
        )
    emulated = replace(shape, accelerator="tcg")
    if shape.cpu:
        _usable(run, emulated)  # that there is such a model
    return Accelerator(reason, emulated, usable, tried)


_seen: dict[tuple[str, Shape], tuple[Shape, str]] = {}
_lock = threading.Lock()


def _usable(run: Run, shape: Shape) -> tuple[Shape, str]:
    """`usable_model`, asked once for each run of this process."""
    with _lock:
        if (run.id, shape) not in _seen:
            _seen[run.id, shape] = usable_model(run, shape)
        return _seen[run.id, shape]

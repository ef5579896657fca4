"""Asks a VMM without a guest what processor it would show one."""

from __future__ import annotations

import re

from harness.errors import CoppiceError, GuestDied, Unsupported, UsageError
from harness.host.exit_cost import module
from harness.host.identity import allocate
from harness.host.run import Run
from harness.sandbox.qemu import processor
from harness.sandbox.qemu.hardware_choice import MACHINE
from harness.sandbox.qemu.jail import jail_for
from harness.sandbox.qemu.machine import Shape, arguments
from harness.sandbox.qemu.processor import Processor
from harness.sandbox.qemu.vmm import Vmm, spawn

LIMIT_S = 30.0
_PROPERTIES = ("vendor", "family", "model", "stepping", "model-id", "tsc-frequency")
_ABSENT = re.compile(r"(unable to find CPU model|[^:]*requires KVM|Property '[^']*' not found).*")
_LACKING = re.compile(r"support requested feature: (\S+) \[bit")
_NO_PROPERTY = re.compile(r"Property '\w+-machine\.(.+?)' not found")
_RATE = re.compile(r"TSC frequency mismatch between VM \((\d+) kHz\) and host \((\d+) kHz\)")
_REGISTER = re.compile(r"(CPUID\.\w+:\w+|MSR\(\w+\))\.")


def examine(run: Run, shape: Shape) -> Processor:
    """What a guest of this shape would see. Takes a tenth of a second.

    Raises UsageError where QEMU has no such model, Unsupported where this host lacks one of its
    features, and GuestDied where the VMM does not start for another reason.
    """
    identity = allocate(run.leases, run.id)
    name = f"processor-{identity.id}"
    try:
        vmm = spawn(
            run,
            name,
            lambda ends: arguments(shape, name, ends),
            incoming=True,
            jail=jail_for(run, identity, shape),
        )
        try:
            vmm.greeting(LIMIT_S)
            return _seen(vmm, shape)
        except GuestDied as error:
            found = vmm.died()
            raise _explained(shape, found, _all_said(vmm)) from error
        finally:
            vmm.kill()
    finally:
        identity.release()


def _seen(vmm: Vmm, shape: Shape) -> Processor:
    path = vmm.qmp.execute("query-cpus-fast")[0]["qom-path"]

    def read(name: str) -> object:
        found: object = vmm.qmp.execute("qom-get", path=path, property=name)
        return found

    words = read("feature-words")
    assert isinstance(words, list)
    facts = {name: read(name) for name in _PROPERTIES}
    named = not processor.of_host(shape.cpu_model)
    return processor.described(facts, words, module() or "unknown", named)


def _all_said(vmm: Vmm) -> str:
    return vmm.log.read().decode(errors="replace")


def _explained(shape: Shape, error: GuestDied, said: str) -> CoppiceError:
    model = shape.cpu_model.removesuffix(processor.ENFORCED)
    by = "this host's KVM" if shape.accelerator == "kvm" else "this QEMU, emulating,"
    if found := _NO_PROPERTY.search(said):
        return UsageError(
            f"{MACHINE}: QEMU's machine {shape.machine!r} has no property {found[1]}",
            hint=f"qemu-system-x86_64 -M {shape.machine.partition(',')[0]},help",
        )
    if found := _ABSENT.search(said):
        return UsageError(
            f"{processor.VARIABLE}: QEMU cannot make the processor {model!r}: {found[0]}",
            hint=processor.LIST,
        )
    if found := _RATE.search(said):
        return Unsupported(
            f"{processor.VARIABLE}: this host's TSC runs at {found[2]} kHz and cannot be scaled to "
            f"{found[1]} kHz",
            hint=f"leave tsc-frequency out, or name {found[2]}000",
        )
    lacking = list(dict.fromkeys(_REGISTER.sub("", each) for each in _LACKING.findall(said)))
    if lacking:
        return Unsupported(
            f"{processor.VARIABLE}: {by} cannot show a guest the processor {model!r}; it lacks "
            f"{', '.join(lacking)}",
            hint=f"name an older model ({processor.LIST}), or leave features out: MODEL,-FLAG",
        )
    return error

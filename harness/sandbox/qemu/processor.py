"""The processor that a guest sees: the model that is asked for, and what KVM makes of it.

Under KVM a guest sees what its host has, so a checkpoint fits only hosts that show its guest the
same CPUID and run its clock at the same rate. Under TCG the model and QEMU's version decide all.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.errors import CheckpointForeign, UsageError
from harness.host.kvm_device import scales_tsc
from harness.measure.record import Scalar

VARIABLE = "COPPICE_CPU"
LIST = "qemu-system-x86_64 -cpu help"
ENFORCED = ",enforce"
"""QEMU then refuses to start without one of the features."""
HOST = "host"
OF_HOST = (HOST, "max")
"""Models that copy the processor below. QEMU emulates no `host`."""
TOLERANCE = 250e-6
"""How far two TSC rates may be apart; the kernel and QEMU take them for equal then."""
_FORM = re.compile(r"[A-Za-z0-9][\w.-]*(,([+-][\w.-]+|[\w.-]+=[\w.-]+|enforce))*")


def wanted(environment: Mapping[str, str] = os.environ) -> str:
    """The model that COPPICE_CPU names, as QEMU takes it; empty without one.

    QEMU must then provide each of its features, so that hosts with the same name show their guests
    the same. Raises UsageError.
    """
    text = environment.get(VARIABLE, "")
    if not text:
        return ""
    if not _FORM.fullmatch(text):
        raise UsageError(
            f"{VARIABLE} is {text!r}; it must be MODEL[,+FLAG][,-FLAG][,NAME=VALUE]", hint=LIST
        )
    name, *flags = text.split(",")
    return text if name in OF_HOST or "enforce" in flags else text + ENFORCED


def of_host(cpu: str) -> bool:
    """Whether a model copies the processor below."""
    return cpu.partition(",")[0] in OF_HOST


@dataclass(frozen=True)
class Processor:
    """What a guest sees under KVM, and the host that shows it.

    `cpuid` has the vendor, family, model, stepping and all feature words; `tsc_khz` is the rate of
    the guest's TSC; `named` whether its model was named rather than copied from the host.
    """

    name: str
    cpuid: str
    tsc_khz: int
    host_kernel: str
    kvm_module: str
    named: bool

    @property
    def cpuid_sha256(self) -> str:
        return hashlib.sha256(self.cpuid.encode()).hexdigest()

    def identity(self) -> Mapping[str, Scalar]:
        """What names a checkpoint, and a saved sandbox, which outlives upgrades of its host."""
        shared = {"cpuid_sha256": self.cpuid_sha256}
        return shared if self.named else {**shared, "kvm_module": self.kvm_module}

    def upgradable(self) -> Mapping[str, Scalar]:
        """What also names a checkpoint that can be built again: all that a host's kernel may change
        of the state of its guests. A named model is shared by hosts with other kernels."""
        return {} if self.named else {"host_kernel": self.host_kernel}

    def facts(self) -> Mapping[str, Scalar]:
        """All of it, for a manifest."""
        return {
            "processor": self.name, "cpuid": self.cpuid, "cpuid_sha256": self.cpuid_sha256,
            "tsc_khz": self.tsc_khz, "host_kernel": self.host_kernel,
            "kvm_module": self.kvm_module,
        }  # fmt: skip


def described(
    facts: Mapping[str, object], words: Sequence[Mapping[str, Any]], module: str, named: bool
) -> Processor:
    """A processor from QEMU's properties of a vCPU, of which `words` are its feature words."""
    plain = [f"{name}={facts[name]}" for name in ("vendor", "family", "model", "stepping")]
    features = sorted(
        "{:x}{}.{}={:x}".format(
            word["cpuid-input-eax"],
            f".{word['cpuid-input-ecx']:x}" if "cpuid-input-ecx" in word else "",
            str(word["cpuid-register"]).lower(),
            word["features"],
        )
        for word in words
    )
    rate = facts["tsc-frequency"]
    assert isinstance(rate, int)
    return Processor(
        str(facts["model-id"]).strip(), " ".join([*plain, *features]), rate // 1000,
        platform.release(), module, named,
    )  # fmt: skip


def check(directory: object, saved: Mapping[str, Scalar], here: Processor | None) -> None:
    """Raise CheckpointForeign unless a checkpoint with these facts of its processor can be restored
    on one that shows `here`. None: under TCG, where the model's name and QEMU's version suffice."""
    if here is None:
        return
    if not saved:
        raise CheckpointForeign(
            f"{directory} does not name the processor that its guest saw", hint=_HINT
        )
    if saved.get("cpuid") != here.cpuid:
        raise CheckpointForeign(
            f"{directory} was made on another processor: {saved.get('processor')} "
            f"(Linux {saved.get('host_kernel')}, {saved.get('kvm_module')}); this host shows its "
            f"guests {here.name} (Linux {here.host_kernel}, {here.kvm_module}). "
            f"{_differing(str(saved.get('cpuid')), here.cpuid)}",
            hint=_HINT,
        )
    rate = saved.get("tsc_khz")
    if not isinstance(rate, int) or abs(rate - here.tsc_khz) > TOLERANCE * here.tsc_khz:
        scaled = f"{VARIABLE}=MODEL,tsc-frequency={rate}000 on this host, which can scale it; or "
        raise CheckpointForeign(
            f"{directory} was made where the TSC runs at {rate} kHz, here it runs at "
            f"{here.tsc_khz} kHz: the guest's clocks would be wrong",
            hint=(scaled if scales_tsc() else "") + _HINT,
        )


_HINT = (
    "remove it and run again: the checkpoint is then built anew; hosts share checkpoints if all "
    f"set {VARIABLE} to a model that each of them has ({LIST})"
)


def _differing(saved: str, here: str) -> str:
    """The words in which two processors differ."""
    before = dict(word.split("=", 1) for word in saved.split() if "=" in word)
    now = dict(word.split("=", 1) for word in here.split())
    return "It differs in " + ", ".join(
        f"{name} ({before.get(name, 'none')} there, {now.get(name, 'none')} here)"
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    )

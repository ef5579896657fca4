"""What the environment asks of QEMU's virtual hardware: an accelerator, a machine, a processor.

Looked at before a run, so that a word that no QEMU takes costs one line and not minutes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from harness.errors import UsageError
from harness.sandbox.qemu import processor

ACCELERATOR, MACHINE = "COPPICE_ACCELERATOR", "COPPICE_MACHINE"
_TYPE = "microvm"
"""Others lack the devices that guests are given, or have some that none of them expects."""
_FORM = re.compile(rf"{_TYPE}(,[\w.-]+=[\w.-]+)*")
_OWN = ("accel", "memory-backend", "mem-merge")
"""Properties that are set for each guest."""


def accelerator(environment: Mapping[str, str] = os.environ) -> str | None:
    """What COPPICE_ACCELERATOR insists on: kvm or tcg. Raises UsageError."""
    text = environment.get(ACCELERATOR) or None
    if text not in (None, "kvm", "tcg"):
        raise UsageError(
            f"{ACCELERATOR} is {text!r}; it must be kvm or tcg",
            hint=f"unset {ACCELERATOR}: KVM is then tried",
        )
    return text


def machine(environment: Mapping[str, str] = os.environ) -> str:
    """The machine that COPPICE_MACHINE names, as QEMU takes it; empty without one. UsageError."""
    text = environment.get(MACHINE, "")
    if text and not _FORM.fullmatch(text):
        raise UsageError(
            f"{MACHINE} is {text!r}; it must be {_TYPE}[,NAME=VALUE]...",
            hint=f"qemu-system-x86_64 -M {_TYPE},help",
        )
    for name in (option.partition("=")[0] for option in text.split(",")[1:]):
        if name in _OWN:
            raise UsageError(
                f"{MACHINE} has {name}, which is set for each guest",
                hint=f"{ACCELERATOR}=kvm|tcg" if name == "accel" else f"leave {name} out",
            )
    return text


def check(environment: Mapping[str, str]) -> None:
    """Raise UsageError for what an environment asks if no QEMU takes it."""
    accelerator(environment)
    machine(environment)
    processor.wanted(environment)

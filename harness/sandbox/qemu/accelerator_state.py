"""What is known of the accelerator without booting a guest, for `coppice doctor`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.errors import CoppiceError, UsageError
from harness.host import kvm_device
from harness.sandbox.qemu import decisions, hardware_choice
from harness.sandbox.qemu.accelerator import asked, of_host
from harness.sandbox.qemu.decisions import Decision, Outcome
from harness.sandbox.qemu.hardware_choice import ACCELERATOR

AGAIN = "coppice doctor --again"


@dataclass(frozen=True)
class State:
    """`name` is kvm, tcg or None: not known. `tried` is when KVM was tried, in Unix time."""

    name: str | None
    reason: str
    tried: float | None = None
    remedy: str | None = None

    def facts(self) -> Mapping[str, object]:
        """For JSON."""
        tried = None if self.tried is None else time.strftime(_UTC, time.gmtime(self.tried))
        return {**vars(self), "tried": tried}


_UTC = "%Y-%m-%dT%H:%M:%SZ"


def state(cache: Path) -> State:
    """What the next run will use, and why."""
    try:
        insisted, shape = hardware_choice.accelerator(), asked()
    except UsageError as error:
        return State(None, str(error.args[0]), remedy=error.hint)
    refused = kvm_device.refusal(kvm_device.KVM)
    if insisted == "kvm" and refused:
        return State(None, f"set in {ACCELERATOR}, but {refused.args[0]}", remedy=refused.hint)
    if insisted:
        return State(insisted, f"set in {ACCELERATOR}")
    if refused:
        return State("tcg", str(refused.args[0]), remedy=refused.hint)
    try:
        found = decisions.latest(cache, of_host(shape))
    except CoppiceError as error:  # no QEMU, which its own line says
        return State(None, str(error.args[0]), remedy=error.hint)
    if found is None:
        return State(
            None, f"not tried here: the next run boots a guest under KVM; at once: {AGAIN}"
        )
    return _of(found)


def _of(found: Decision) -> State:
    age = f"tried {_span(time.time() - found.tried)} ago"
    if found.outcome is Outcome.ANSWERED:
        return State("kvm", f"{found.reason} ({found.cpu}); {age}", found.tried)
    left = found.left_s()
    then = f"holds for another {_span(left)}" if left > 0 else "the next run tries it anew"
    return State("tcg", f"{found.reason}; {age}, {then}", found.tried, AGAIN)


def _span(seconds: float) -> str:
    """A duration for reading, rounded."""
    for unit, length in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} seconds"

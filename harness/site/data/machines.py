"""How pages name a machine: its system first, since a claim is often about the system."""

from __future__ import annotations

import re

from harness.measure.conditions import NONE, NOT_RECORDED, TCG, Conditions
from harness.measure.record import Machine

_SYSTEM = re.compile(r"(?P<name>[A-Za-z]+)(?: GNU/Linux| Linux)? (?P<version>\d[\d.]*)")
_HYPERVISOR = re.compile(r", under \w+$")
_ACCELERATORS = {TCG: "emulated (TCG)", "kvm": "under KVM", "vmm": "under bhyve's vmm"}
_UNKNOWN = "unknown"


def system(machine: Machine) -> str:
    """The operating system and its version, such as FreeBSD 13.2."""
    # Records of FreeBSD name the system in the kernel's version alone.
    described = machine.kernel if machine.os == _UNKNOWN else machine.os
    found = _SYSTEM.match(described)
    return f"{found['name']} {found['version']}" if found else described


def title(machine: Machine) -> str:
    """The system and the hardware. What the machine itself runs under is no part of its name."""
    return f"{system(machine)}, {_HYPERVISOR.sub('', machine.name)}"


def running(machine: Machine) -> str:
    """The system as its record states it, with the kernel."""
    known = machine.os != _UNKNOWN
    return f"{machine.os}, kernel {machine.kernel}" if known else machine.kernel


def accelerator(name: str | None) -> str:
    """How guests ran; empty if there were none."""
    return _ACCELERATORS.get(name, f"under {name}") if name and name != NONE else ""


def guests(ran: Conditions) -> str:
    """How the guests of a series ran, to stand in a list; empty if it has none."""
    if ran.accelerator is None:
        return NOT_RECORDED
    how = accelerator(ran.accelerator)
    return f"guests {how}" if how else ""

"""What KVM costs on this host: the facts of a record's `machine.kvm`.

One exit to user space costs less than a microsecond on one host and a hundred times as much on a
nested one, and a guest's kernel mode can be emulated while its user mode runs natively: figures of
guests under KVM mean little without both.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path

from harness import paths
from harness.errors import CoppiceError
from harness.host.compiled import program

KVM = Path("/dev/kvm")
MEASURED = ("exit_io_s", "exit_mmio_s", "kernel_mode_slowdown", "exit_user_s")
"""Seconds of an exit from kernel mode by port and by memory; the time of a loop in a guest's kernel
mode as a multiple of its time on the host; seconds of an exit from user mode by port."""
LIMIT_S = 8.0
"""The program ends itself before: this is for one that cannot be interrupted."""
EMULATED_FROM = 20.0
"""Native code in kernel mode takes about as long as outside; emulated, a thousand times as long."""
_MODULES = Path("/sys/module")
_CPUINFO = Path("/proc/cpuinfo")
_NEEDS = {"kvm_intel": "vmx", "kvm_amd": "svm"}
"""Processors' flags without which a module that is built in does nothing."""

Fact = str | float | bool | None


def facts(cache: Path, device: Path = KVM) -> Mapping[str, Fact]:
    """What KVM costs here, for a record. Takes half a second, so it must not be on a timed path.

    What could not be measured is None, and `reason` says why; else `reason` is None. Raises
    nothing but DiskFull.
    """
    measured, reason = _measure(cache, device)
    flags = _flags()
    return {
        **{name: measured.get(name) for name in MEASURED},
        "module": _module(flags),
        "nested": None if flags is None else "hypervisor" in flags,
        "reason": reason,
    }


def kernel_mode_emulated(found: Mapping[str, Fact]) -> str | None:
    """Why times of a guest with a kernel of its own mean nothing here; None where they do."""
    slowdown = found.get("kernel_mode_slowdown")
    if not isinstance(slowdown, int | float) or slowdown < EMULATED_FROM:
        return None
    return (
        f"this host's KVM ({found.get('module') or 'unknown module'}) emulates the guest's kernel "
        f"mode: it runs {slowdown:.0f} times slower than the same code on the host"
    )


def _measure(cache: Path, device: Path) -> tuple[Mapping[str, float], str | None]:
    if not device.exists():
        return {}, f"{device} does not exist"
    if not os.access(device, os.R_OK | os.W_OK):
        return {}, f"{device} cannot be opened: permission denied"
    try:
        probe = program(cache, paths.EXIT_COST_PROGRAM)
        done = subprocess.run(
            [probe, device],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=LIMIT_S,
            check=False,
        )
    except CoppiceError as error:
        return {}, f"the probe cannot be built: {error.args[0]}"
    except (OSError, subprocess.TimeoutExpired) as error:
        return {}, f"the probe did not end: {error}"
    lines = done.stdout.decode(errors="replace").splitlines()
    found = dict(line.partition("=")[::2] for line in lines)
    measured = {name: float(found[name]) for name in MEASURED if _is_number(found.get(name, ""))}
    if len(measured) == len(MEASURED):
        return measured, None
    return measured, found.get("reason") or f"the probe ended with code {done.returncode}"


def _is_number(text: str) -> bool:
    return re.fullmatch(r"\d+(\.\d+)?(e[-+]\d+)?", text) is not None


def _flags() -> set[str] | None:
    try:
        found = re.search(r"^flags\s*:(.*)$", _CPUINFO.read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        return None
    return set(found[1].split()) if found else None


def module() -> str | None:
    """The module of KVM for this processor: kvm_intel, kvm_amd, or another."""
    return _module(_flags())


def _module(flags: set[str] | None) -> str | None:
    found = [path.name for path in sorted(_MODULES.glob("kvm_*"))]
    if len(found) > 1:  # built into the kernel, some are there for other processors
        found = [name for name in found if _NEEDS.get(name, "") in ("", *(flags or ()))]
    return ", ".join(found) or None

"""Retries of boots that are not measured: a guest that hangs during boot is booted again.

A kernel that calibrates its timer while the host is overloaded may give up on the timer. Such a
guest waits forever, which is visible: its VMM neither uses a CPU nor waits for one.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from harness.errors import GuestStalled, GuestTimeout
from harness.sandbox.qemu.sandbox import QemuSandbox

T = TypeVar("T")
TRIES = 3
LOOK_S = 5.0
LEAST_S = 0.05
"""CPU seconds, used or waited for within LOOK_S, by a guest that does have a timer."""


def retry_stalled_boot(begin: Callable[[], T]) -> T:
    """Call `begin` again as long as its guest stalls, TRIES times at most."""
    for _ in range(TRIES - 1):
        with contextlib.suppress(GuestStalled):
            return begin()
    return begin()


def await_boot(guest: QemuSandbox, limit_s: float) -> None:
    """Wait until a guest has booted and answers.

    Raises GuestStalled when it makes no progress, and whatever `awaken` raises.
    """
    deadline = time.monotonic() + limit_s
    had = _processor_s(guest.vmm.process.pid)
    while True:
        try:
            guest.awaken(LOOK_S)
            return
        except GuestTimeout:
            if time.monotonic() > deadline:
                raise
        before, had = had, _processor_s(guest.vmm.process.pid)
        if had is not None and before is not None and had - before < LEAST_S:
            raise GuestStalled(
                f"{guest.vmm.name} stands still: its VMM asked for no CPU in {LOOK_S:g} s",
                hint="its kernel found no timer; boot it again when the host is less busy",
            )


def _processor_s(pid: int) -> float | None:
    """Seconds that a process's threads ran or waited for a CPU; None where the kernel does not
    report it."""
    total = 0.0
    for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError):
            had, waited, _ = task.read_text(encoding="utf-8").split()
            total += (int(had) + int(waited)) / 1e9
    return total or None

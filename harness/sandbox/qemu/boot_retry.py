"""Retries of boots that are not measured: a guest that hangs during boot is booted again.

A kernel that calibrates its timer while the host is overloaded may give up on the timer. Such a
guest waits forever, which is visible: its VMM neither uses a CPU nor waits for one.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import TypeVar

from harness.errors import GuestStalled, GuestTimeout
from harness.sandbox.qemu import processor_time
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
    had = processor_time.of(guest.vmm.process.pid)
    while True:
        try:
            guest.awaken(LOOK_S)
            return
        except GuestTimeout:
            if time.monotonic() > deadline:
                raise
        before, had = had, processor_time.of(guest.vmm.process.pid)
        if had is not None and before is not None and had.wanted - before.wanted < LEAST_S:
            raise GuestStalled(
                f"{guest.vmm.name} stands still: its VMM asked for no CPU in {LOOK_S:g} s",
                hint="its kernel found no timer; boot it again when the host is less busy",
            )

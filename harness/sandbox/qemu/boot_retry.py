"""Boots that nobody times: a guest that has come to a standstill is begun again.

A kernel that measures its timer's rate while the host is overloaded may give the timer up. Such a
guest waits for ever, and so shows: its VMM neither uses a processor nor waits for one.
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
"""Of processor that a guest with a timer has had or waited for, within LOOK_S."""


def retry_stalled_boot(begin: Callable[[], T]) -> T:
    """What `begin` makes, which is asked again where its guest came to a standstill."""
    for _ in range(TRIES - 1):
        with contextlib.suppress(GuestStalled):
            return begin()
    return begin()


def await_boot(guest: QemuSandbox, limit_s: float) -> None:
    """Wait until a guest has booted and answers. Raises GuestStalled when it stands still, and
    what `awaken` raises."""
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
                f"{guest.vmm.name} stands still: in {LOOK_S:g} s its VMM asked for no processor",
                hint="its kernel found no timer; a host with less to do boots it",
            )


def _processor_s(pid: int) -> float | None:
    """Seconds that a process's threads had a processor or waited for one; None where the kernel
    does not say."""
    total = 0.0
    for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError):
            had, waited, _ = task.read_text().split()
            total += (int(had) + int(waited)) / 1e9
    return total or None

"""A limit on concurrent boots: one per CPU.

A boot keeps a whole CPU busy. More of them at once only slow each other down, and a guest whose
vCPU waits too long while its kernel calibrates the local APIC timer finds no timer and hangs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from harness.host.cpus import usable


class BootSlots:
    """A semaphore of boots, first come, first served; by default one slot per usable CPU."""

    def __init__(self, at_once: int | None = None) -> None:
        self._free = threading.Semaphore(at_once or usable())

    def acquire(self) -> Callable[[], None]:
        """Wait for a slot; the returned function frees it and may be called more than once."""
        self._free.acquire()
        ended = threading.Lock()

        def end() -> None:
            if ended.acquire(blocking=False):
                self._free.release()

        return end

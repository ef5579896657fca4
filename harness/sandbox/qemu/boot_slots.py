"""Boots take turns: as many guests boot at once as there are CPUs for them.

A boot keeps a whole CPU busy. More of them at once only make each slower, and a guest whose vCPU
waits too long while its kernel calibrates the local APIC's timer finds no timer and hangs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from harness.host.cpus import usable


class BootSlots:
    """Hands out so many turns at once, first come, first served."""

    def __init__(self, at_once: int | None = None) -> None:
        self._free = threading.Semaphore(at_once or usable())

    def acquire(self) -> Callable[[], None]:
        """Wait for a turn; returns what ends it, safe to call more than once."""
        self._free.acquire()
        ended = threading.Lock()

        def end() -> None:
            if ended.acquire(blocking=False):
                self._free.release()

        return end

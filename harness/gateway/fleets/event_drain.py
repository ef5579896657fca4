"""Reads the QMP events of running microVMs, which nothing else reads.

A VMM reports each failed request of its guest's disk, and blocks once those reports are not read:
the guest would stop with it. One thread serves all VMMs, and never waits for one of them.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading

from harness.sandbox.qemu.qmp import Qmp

AGAIN_S = 0.05
"""Seconds after which a channel that a command uses is looked at again."""


class EventDrain:
    """`close` ends its thread."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._end = os.eventfd(0, os.EFD_CLOEXEC)
        self._poll.register(self._end, select.EPOLLIN)
        self._watched: dict[int, Qmp] = {}
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._serve, name="qmp-events", daemon=True)
        self._thread.start()

    def watch(self, qmp: Qmp) -> None:
        """Read its events from now on, whenever it carries out no command."""
        with self._lock:
            self._watched[qmp.fileno()] = qmp
            qmp.on_close = lambda: self.forget(qmp)
            # Edge-triggered: the reply to a command must not keep the thread busy.
            self._poll.register(qmp.fileno(), select.EPOLLIN | select.EPOLLET)

    def forget(self, qmp: Qmp) -> None:
        """Called before the channel is closed; safe to call twice."""
        with self._lock:
            if self._watched.get(number := qmp.fileno()) is qmp:
                del self._watched[number]
                with contextlib.suppress(OSError):
                    self._poll.unregister(number)

    def close(self) -> None:
        os.eventfd_write(self._end, 1)
        self._thread.join()
        self._poll.close()
        os.close(self._end)

    def _serve(self) -> None:
        busy: set[int] = set()
        while True:
            ready = {number for number, _ in self._poll.poll(AGAIN_S if busy else None)}
            if self._end in ready:
                return
            with self._lock:
                found = {
                    number: qmp for number in ready | busy if (qmp := self._watched.get(number))
                }
            busy = {number for number, qmp in found.items() if not qmp.drain()}

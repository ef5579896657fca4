"""Interrupts of cells: SIGINT ends the running cell, and never the next one."""

import contextlib
import os
import select
import signal
import threading


class Interrupts:
    """Delivers SIGINT to the running cell only.

    Python handles signals between instructions: a signal that arrives just before a system call
    would wait for the call to end. The pipe has a byte for each signal that is not handled yet.
    """

    def __init__(self):
        self.cell_runs = False
        self._pending, self._end = os.pipe()
        for descriptor in (self._pending, self._end):
            os.set_blocking(descriptor, False)
        self.arm()

    def arm(self):
        """Install the handlers; again before each cell, since cells may install others."""
        signal.set_wakeup_fd(self._end, warn_on_full_buffer=False)
        signal.signal(signal.SIGURG, self._handled)
        signal.signal(signal.SIGINT, self._interrupt)

    def _handled(self, *_):
        with contextlib.suppress(BlockingIOError):
            os.read(self._pending, 4096)

    def _interrupt(self, *_):
        self._handled()
        if self.cell_runs:
            self.cell_runs = False
            raise KeyboardInterrupt

    def push(self):
        """Interrupt the main thread's system call if a signal is pending."""
        if select.select([self._pending], [], [], 0)[0]:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGURG)

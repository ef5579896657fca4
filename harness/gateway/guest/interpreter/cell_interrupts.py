"""Interrupts of cells: SIGINT ends the running cell, and never the next one."""

import asyncio
import contextlib
import os
import select
import signal
import threading
import time

IDLE, BEGUN, RUNS = range(3)
HELD_UP_S = 1.0
"""How long a task may keep a cell that awaits from being cancelled: then it is interrupted."""


class Interrupts:
    """Delivers SIGINT to the running cell only, once.

    Python handles signals between instructions: a signal that arrives just before a system call
    would wait for the call to end. The pipe has a byte for each signal that is not handled yet.
    """

    def __init__(self, loop):
        self._loop = loop
        self._state = IDLE
        self._early = False
        self._task = None
        self._asked_at = None
        """When the task of a cell that awaits was to be cancelled, which the loop has not done."""
        self.cancelled = False
        """Whether the task was cancelled."""
        self._pending, self._end = os.pipe()
        for descriptor in (self._pending, self._end):
            os.set_blocking(descriptor, False)
        self._arm()

    def begin(self):
        """A cell is about to run: its interrupts count from now on."""
        self._arm()
        self._early = False
        self._state = BEGUN

    def run(self):
        """The cell's own code runs from now on. Before, IPython might ignore a KeyboardInterrupt:
        it is raised here."""
        if self._state != BEGUN:
            return
        self._state = RUNS
        if self._early:
            self._state = IDLE
            raise KeyboardInterrupt

    def end(self):
        self._state = IDLE

    @contextlib.contextmanager
    def awaiting(self, task):
        """While the cell is this task: other tasks must not be interrupted in its place."""
        self._task, self.cancelled, self._asked_at = task, False, None
        try:
            yield
        finally:
            self._task, self.cancelled, self._asked_at = None, False, None

    def _arm(self):
        """Install the handlers; again before each cell, since cells may install others, and may
        block the signals."""
        signal.set_wakeup_fd(self._end, warn_on_full_buffer=False)
        signal.signal(signal.SIGURG, self._handled)
        signal.signal(signal.SIGINT, self._interrupt)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGURG))

    def _handled(self, *_):
        with contextlib.suppress(BlockingIOError):
            os.read(self._pending, 4096)

    def _interrupt(self, *_):
        self._handled()
        if self._state == BEGUN:
            self._early = True
        if self._state != RUNS:
            return
        task = self._task
        if task and not task.done() and self._loop.turns():
            if self._asked_at is None and asyncio.current_task(self._loop) is not task:
                self._asked_at = time.monotonic()
                self._loop.call_soon_threadsafe(self._cancel, task)
                return
            if self._asked_at is not None and not self._held_up():
                return
        self._state = IDLE
        raise KeyboardInterrupt

    def _cancel(self, task):
        if task is self._task and self._state == RUNS:
            self._state, self._asked_at, self.cancelled = IDLE, None, True
            task.cancel()

    def _held_up(self):
        at = self._asked_at
        return at is not None and time.monotonic() - at > HELD_UP_S

    def push(self):
        """Interrupt the main thread's system call if a signal is pending, and a task that keeps
        the cell from its end."""
        main = threading.main_thread().ident
        if select.select([self._pending], [], [], 0)[0]:
            signal.pthread_kill(main, signal.SIGURG)
        if self._held_up():
            signal.pthread_kill(main, signal.SIGINT)

"""Signals that end a command are raised in it as Interrupted, so that it cleans up first.

The same request often arrives twice: `timeout` signals a process and then its group, and a terminal
that closes signals its session's leader and then the foreground group. Signals that follow so soon
(`SAME_S`) therefore count once. A later one is a new request: it interrupts the clean-up too.
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from harness.errors import Interrupted

TERMINATION = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SAME_S = {signal.SIGINT: 0.005, signal.SIGTERM: 1.0, signal.SIGHUP: 1.0}
"""A user may press Ctrl-C twice within a second, and then means it."""
LATER_S = 1.1
"""An interrupt that was lost is repeated after this time: more than SAME_S, so that it counts."""


class Requests:
    """The signals that have asked this process to end. `first` decides its exit code."""

    def __init__(self) -> None:
        self.first: int | None = None
        self._last = 0.0

    def forget(self) -> None:
        """Begin anew, for another command in the same process."""
        self.first = None

    def note(self, number: int) -> bool:
        """Whether this signal is a new request, and not the previous one again."""
        now = time.monotonic()
        if self.first is not None and now - self._last < SAME_S[signal.Signals(number)]:
            return False
        self.first, self._last = self.first or number, now
        if number == signal.SIGHUP:
            leave_terminal()
        return True


requests = Requests()
"""Those of this process; its handlers share them."""


def leave_terminal() -> None:
    """Let output go nowhere if its terminal has gone: a write to it would be an error."""
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):
            if stat.S_ISCHR(os.fstat(descriptor).st_mode) and not os.isatty(descriptor):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, descriptor)
                os.close(null)


def _raise(number: int, _: object) -> None:
    if requests.note(number):
        raise Interrupted(requests.first or number)


@contextlib.contextmanager
def raised(numbers: Sequence[int] = TERMINATION) -> Iterator[None]:
    """Raise Interrupted in the main thread for these signals, unless the process ignores them.

    Does nothing in another thread, which Python allows no handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {number: signal.getsignal(number) for number in numbers}
    requests.forget()
    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, _raise)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def raise_from_now_on() -> None:
    """The same for the rest of this process, and SIGINT even where it is ignored: a shell that
    starts a process in the background has it ignored, and `coppice run` then sends it."""
    for number in TERMINATION:
        if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _raise)
    repeat_lost()


def repeat_lost() -> None:
    """Raise an interrupt again that came in a finaliser or a callback of the garbage collector or
    of an import: Python only prints what is raised there, and would go on."""
    if getattr(sys.unraisablehook, "repeats", False):
        return
    shown = sys.unraisablehook

    def repeat(lost: sys.UnraisableHookArgs) -> None:
        if not isinstance(lost.exc_value, KeyboardInterrupt):
            shown(lost)
            return
        # Later, since what is raised in this hook would be lost as well.
        again = threading.Timer(LATER_S, os.kill, (os.getpid(), requests.first or signal.SIGINT))
        again.daemon = True
        again.start()

    repeat.repeats = True  # type: ignore[attr-defined]
    sys.unraisablehook = repeat


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Let these signals wait until the block has ended: it must not be left half-way."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, TERMINATION)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

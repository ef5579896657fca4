"""Wakes a coroutine at a moment, as exactly as the kernel can.

Timers of event loops have a resolution of 1 ms, and half of that is then in every latency that
counts from the moment at which a request was due. The kernel's own timer is a descriptor that
becomes readable. Where it is missing, the event loop's timers do.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import sys
import time
from collections.abc import Iterator
from typing import Protocol

GRAIN_S = 0.001
"""The resolution of the event loop's timers. Shorter sleeps would return at once."""
_MONOTONIC, _ABSOLUTE = 1, 1
_NANO = 1_000_000_000


class _Spec(ctypes.Structure):
    """struct itimerspec: an interval, 0 for once, and the moment."""

    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("s", ctypes.c_long),
        ("ns", ctypes.c_long),
    )


class Timer(Protocol):
    async def until(self, moment: float) -> None:
        """Return when time.perf_counter has reached a moment; at once if it has."""


class LoopTimer:
    """The event loop's timers."""

    async def until(self, moment: float) -> None:
        while (left := moment - time.perf_counter()) > 0:
            await asyncio.sleep(max(left, GRAIN_S))


class KernelTimer:
    """A timer descriptor `number`. On Linux time.perf_counter is the kernel's monotonic clock."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._spec = _Spec()
        self._set = ctypes.CDLL(None, use_errno=True).timerfd_settime
        self._elapsed = asyncio.Event()

    def readable(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._number, 8)
        self._elapsed.set()

    async def until(self, moment: float) -> None:
        while moment > time.perf_counter():
            self._elapsed.clear()
            # Rounded up: a moment too early would be waited for once more.
            self._spec.s, self._spec.ns = divmod(int(moment * _NANO) + 1, _NANO)
            if self._set(self._number, _ABSOLUTE, ctypes.byref(self._spec), None):
                raise OSError(ctypes.get_errno(), "timerfd_settime")
            await self._elapsed.wait()


@contextlib.contextmanager
def opened() -> Iterator[Timer]:
    """A timer for the running event loop."""
    number = _descriptor()
    if number is None:
        yield LoopTimer()
        return
    loop = asyncio.get_running_loop()
    try:
        timer = KernelTimer(number)
        loop.add_reader(number, timer.readable)
        try:
            yield timer
        finally:
            loop.remove_reader(number)
    finally:
        os.close(number)


def _descriptor() -> int | None:
    if sys.platform != "linux":
        return None
    number: int = ctypes.CDLL(None).timerfd_create(_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
    return number if number >= 0 else None

"""Ends a process when its parent does, however the parent ends."""

from __future__ import annotations

import ctypes
import signal
import sys

_PR_SET_PDEATHSIG = 1
"""From Linux's prctl(2)."""
_P_PID, _PROC_PDEATHSIG_CTL = 0, 11
"""From FreeBSD's procctl(2)."""


def end_with_parent(number: int = signal.SIGTERM) -> None:
    """Let the kernel send this process a signal when its parent has ended. A parent that has ended
    already is not noticed: the caller checks."""
    libc = ctypes.CDLL(None)
    if sys.platform == "linux":
        libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    elif sys.platform.startswith("freebsd"):
        wanted = ctypes.byref(ctypes.c_int(number))
        libc.procctl(_P_PID, ctypes.c_int64(0), _PROC_PDEATHSIG_CTL, wanted)

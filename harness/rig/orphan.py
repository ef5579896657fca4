"""Interrupts a rig's process when its parent `coppice run` dies.

After a SIGKILL of the parent, which the kernel also sends when memory is short, the rig would
otherwise measure on for minutes and then store a record.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable

_LINUX_PR_SET_PDEATHSIG = 1
_FREEBSD_P_PID, _FREEBSD_PROC_PDEATHSIG_CTL = 0, 11


def interrupted_with_parent() -> Callable[[], None]:
    """What a child of this process calls before exec (`preexec_fn`): the kernel then sends SIGINT
    to the child when this process has ended. SIGINT has its effect in the child even where a shell
    has started this process in the background, with the signal ignored."""
    kernel = ctypes.CDLL(None)  # loaded here: a forked child should do as little as possible
    parent, number = os.getpid(), ctypes.c_int(signal.SIGINT)

    def ask_kernel() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if sys.platform.startswith("freebsd"):
            argument = ctypes.byref(number)
            self = ctypes.c_int64(0)
            kernel.procctl(_FREEBSD_P_PID, self, _FREEBSD_PROC_PDEATHSIG_CTL, argument)
        else:
            kernel.prctl(_LINUX_PR_SET_PDEATHSIG, number, 0, 0, 0)
        if os.getppid() != parent:  # it died before the kernel knew
            os._exit(128 + signal.SIGINT)

    return ask_kernel

"""The states of a microVM, whichever VMM runs it."""

from __future__ import annotations

import enum


class VmState(enum.Enum):
    """What a microVM still needs before it can answer.

    BOOTING: it has to finish booting. EMPTY: a checkpoint has to be loaded. STOPPED: its vCPU has
    to be continued. RUNNING: nothing.
    """

    BOOTING = "booting"
    EMPTY = "empty"
    STOPPED = "stopped"
    RUNNING = "running"

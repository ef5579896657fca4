"""The generator's thread goes before all others of its host, where that is allowed.

A generator often shares its processors with what it measures. Were it to wait for them, it would
send late and stamp answers late, and its delay would be taken for the system's. What it takes from
the system is the series `generator-cpu`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def raised() -> Iterator[bool]:
    """Real-time scheduling for this thread, not for threads and processes that it starts; whether
    it was allowed. Other systems than Linux, and users without the right, go on as they are."""
    reset = getattr(os, "SCHED_RESET_ON_FORK", None)
    if reset is None:
        yield False
        return
    before, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        lowest = os.sched_param(os.sched_get_priority_min(os.SCHED_RR))
        os.sched_setscheduler(0, os.SCHED_RR | reset, lowest)
    except OSError:
        yield False
        return
    try:
        yield True
    finally:
        os.sched_setscheduler(0, before, parameters)

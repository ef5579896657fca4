"""Starts pieces of work at the same moment, each in a thread of its own."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence

GATHERING_S = 0.05
"""Seconds for the threads to reach the gate before it opens."""


def at_once(works: Sequence[Callable[[], object]]) -> None:
    """Release all at once, and wait until each has ended.

    An exception here, such as Interrupted, releases the threads too, and what has not begun then
    does not begin: a thread that still waited would keep this process alive for good.
    """
    # Closing a pipe releases all threads with one system call; threading.Barrier wakes them one by
    # one, and each takes its lock while the first are already being timed.
    gate, key = os.pipe()
    opened = False

    def run(work: Callable[[], object]) -> None:
        os.read(gate, 1)
        if opened:
            work()

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    try:
        for thread in threads:
            thread.start()
        time.sleep(GATHERING_S)
        opened = True
    finally:
        os.close(key)
    for thread in threads:
        thread.join()
    os.close(gate)

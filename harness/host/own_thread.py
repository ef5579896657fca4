"""A thread for work that changes its thread for good, such as entering a namespace."""

from __future__ import annotations

import threading
from collections.abc import Callable


def in_own_thread(work: Callable[[], object]) -> None:
    """Run `work` in a new thread and wait for its end. Raises what it raises."""
    failures: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]

"""Work that forked processes share."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from harness.interrupts import TERMINATION
from harness.site.builder import workers

ENDED_AT_THE_FORK = """
import os, signal
from harness import interrupts
from harness.site.builder import workers

interrupts.raise_from_now_on()
parent, fork, once = os.getpid(), os.fork, os.pipe()
os.write(once[1], b"x")
os.set_blocking(once[0], False)

def ended_at_once():
    child = fork()
    try:
        if child == 0 and os.read(once[0], 1):
            os.kill(os.getpid(), signal.SIGTERM)
    except BlockingIOError:
        pass  # a later worker
    return child

os.fork = ended_at_once
try:
    assert list(workers.spread(str, range(64), 2, 1)) == [str(n) for n in range(64)]
finally:
    os.write(1, b"cleaned up by " + (b"the parent" if os.getpid() == parent else b"a copy"))
"""


def test_each_item_is_worked_on_in_order_and_signals_end_workers() -> None:
    items = range(200)
    assert list(workers.spread(lambda n: (n, os.getpid()), items, 1, 1))[199] == (199, os.getpid())
    found = list(workers.spread(_mask_and_handlers, items, 2, 1))
    assert {one for one, _ in found} == {frozenset()}
    assert {one for _, one in found} == {(signal.SIG_DFL,) * len(TERMINATION)}
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ()) & set(TERMINATION)


def _mask_and_handlers(_: int) -> tuple[frozenset[int], tuple[object, ...]]:
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    return frozenset(blocked), tuple(map(signal.getsignal, TERMINATION))


def test_a_worker_that_is_ended_as_it_begins_does_not_go_on_as_a_copy_of_the_command() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", ENDED_AT_THE_FORK],
        capture_output=True,
        encoding="utf-8",
        timeout=60,
    )
    assert ended.stdout == "cleaned up by the parent", ended.stderr
    assert (ended.returncode, ended.stderr) == (0, "")

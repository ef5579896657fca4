"""Detection of a host at rest, and the activity of processes."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

from harness.measure import memory_linux
from harness.measure.memory_linux import HostMemory
from harness.measure.rest_linux import (
    BOUND_BYTES,
    BOUND_SHARE,
    Activity,
    Window,
    activity,
    bound,
    settle,
    watch,
)
from tests.host.processes import eventually

GIB = 1 << 30
HOST = HostMemory(20 * GIB, 0, 0, 0, 0, 0, 0, 0, 0, 0)
BUSY = "import sys\nprint('go', flush=True)\nwhile True: pass"
SLEEPY = (
    "import time\nprint('go', flush=True)\nfor _ in range(100): time.sleep(0.01)\ntime.sleep(600)"
)


def windows(*available: int) -> Callable[[], Window]:
    """Windows of 10 s between these readings of available memory."""
    readings = [replace(HOST, available=one) for one in available]
    pairs = itertools.pairwise(readings)

    def one() -> Window:
        before, after = next(pairs)
        return Window(10.0, before, after, Activity(0, 0), 0)

    return one


def test_the_bound_is_absolute_for_small_fleets_and_relative_for_large_ones() -> None:
    assert bound(0) == bound(-GIB) == BOUND_BYTES
    assert bound(10 * GIB) == BOUND_SHARE * 10 * GIB > BOUND_BYTES


def test_at_rest_after_the_first_window_with_little_change() -> None:
    found = settle(HOST, windows(18 * GIB, 17 * GIB, 17 * GIB - BOUND_BYTES, 0))
    assert found.reached and len(found.windows) == 2 and found.seconds == 20


def test_pages_in_per_cpu_lists_are_available() -> None:
    before, after = replace(HOST, in_lists=GIB), replace(HOST, available=21 * GIB)
    assert Window(10, before, after, Activity(0, 0), 0).moved == 0


def test_freed_memory_is_a_change_too() -> None:
    found = settle(HOST, windows(17 * GIB, 18 * GIB, 18 * GIB))
    assert len(found.windows) == 2


def test_a_quiet_window_does_not_count_before_the_scanner_is_ready() -> None:
    answers = iter([False, False, True])
    found = settle(HOST, windows(*[18 * GIB] * 9), lambda: next(answers))
    assert found.reached and len(found.windows) == 3


def test_waiting_has_a_limit() -> None:
    found = settle(HOST, windows(*range(20 * GIB, 0, -GIB)), limit_s=45)
    assert not found.reached and found.seconds == 50


def test_the_activity_of_processes() -> None:
    with (
        subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE) as busy,
        subprocess.Popen([sys.executable, "-c", SLEEPY], stdout=subprocess.PIPE) as sleepy,
    ):
        try:
            for process in (busy, sleepy):
                assert process.stdout
                process.stdout.readline()
            # However little of the processor they get: what was done is counted, and no more.
            worked = 0.0
            for window in (watch([busy.pid], 0.5) for _ in range(200)):
                assert window.fleet.cpu_s <= window.seconds + 0.02
                worked += window.fleet.cpu_s
                if worked > 0.1:
                    break
            assert worked > 0.1
            eventually(lambda: activity([sleepy.pid]).switches >= 20)
            assert watch([sleepy.pid], 0.5).fleet.cpu_s < 0.2
        finally:
            busy.kill()
            sleepy.kill()


def test_processes_that_have_ended_count_0() -> None:
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    assert activity([gone.pid]) == Activity(0, 0)
    assert watch([], 0.01).moved >= 0 and memory_linux.read().available > 0

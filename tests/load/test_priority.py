"""The generator's thread goes before others while it sends, and what it starts does not."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from harness.load import priority
from harness.load.arrivals import constant
from harness.load.generator import Attempt, on_fresh_loop, run

pytestmark = pytest.mark.skipif(
    not hasattr(os, "SCHED_RESET_ON_FORK"), reason="only Linux has this scheduling"
)


def test_the_thread_goes_first_while_the_block_runs_and_never_what_it_starts() -> None:
    before = os.sched_getscheduler(0)
    inside: list[int] = []
    with priority.raised() as allowed:
        if not allowed:
            pytest.skip("this user may not use real-time scheduling")
        assert os.sched_getscheduler(0) & os.SCHED_RR
        thread = threading.Thread(target=lambda: inside.append(os.sched_getscheduler(0)))
        thread.start()
        thread.join()
        asks = "import os; print(os.sched_getscheduler(0))"
        started = subprocess.check_output([sys.executable, "-c", asks], text=True, encoding="utf-8")
    assert inside == [os.SCHED_OTHER] and int(started) == os.SCHED_OTHER
    assert os.sched_getscheduler(0) == before


def test_a_user_without_the_right_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    with priority.raised() as allowed:
        assert not allowed


def test_a_storm_leaves_the_thread_as_it_was() -> None:
    before = os.sched_getscheduler(0)
    seen: list[int] = []

    async def life(attempt: Attempt) -> None:
        seen.append(os.sched_getscheduler(0))

    with priority.raised() as allowed:
        pass
    on_fresh_loop(run(constant(100, 2), life))
    assert [bool(each & os.SCHED_RR) for each in seen] == [allowed, allowed]
    assert os.sched_getscheduler(0) == before

"""Work that starts at the same moment, and what an interrupt leaves of it."""

from __future__ import annotations

import threading
import time

import pytest

from harness.errors import Interrupted
from harness.procedures import gate


def test_each_piece_of_work_has_ended_when_the_call_returns() -> None:
    done: list[int] = []
    gate.at_once([lambda number=number: done.append(number) for number in range(20)])  # type: ignore[misc]
    assert sorted(done) == list(range(20))


def test_an_interrupt_before_the_gate_opens_begins_nothing_and_leaves_no_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(_: float) -> None:
        raise Interrupted(2)

    before = set(threading.enumerate())
    begun: list[int] = []
    with monkeypatch.context() as patched:
        patched.setattr(time, "sleep", interrupted)
        with pytest.raises(Interrupted):
            gate.at_once([lambda: begun.append(1)] * 10)
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive(), "a thread waits at a gate that never opens"
    assert not begun

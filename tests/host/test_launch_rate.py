"""How fast a pool is expected to launch, from made-up times."""

from __future__ import annotations

import pytest

from harness.sandbox import launch_rate
from harness.sandbox.launch_rate import LaunchRate


@pytest.fixture(autouse=True)
def processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch_rate, "usable", lambda: 2)


def test_before_it_was_measured_launches_share_the_processors() -> None:
    rate = LaunchRate(8)
    assert rate.interval_s == 0.0, "nothing is known yet"
    rate.note(0.0, 3.0, busy=False)
    assert rate.interval_s == pytest.approx(1.5)


def test_it_is_measured_while_all_workers_are_busy() -> None:
    rate = LaunchRate(2)
    for number in range(10):
        rate.note(number * 0.9 - 1.0, number * 0.9, busy=True)
    assert rate.interval_s == pytest.approx(0.9)


def test_it_follows_a_change() -> None:
    rate = LaunchRate(1)
    for number in range(20):
        rate.note(number, number + 1, busy=True)
    for number in range(20):
        rate.note(20 + 3 * number, 20 + 3 * number + 3, busy=True)
    assert rate.interval_s == pytest.approx(3.0, rel=0.02)


def test_launches_that_end_together_show_no_higher_rate() -> None:
    rate = LaunchRate(4)
    for round in range(5):
        for _ in range(4):
            rate.note(2.0 * round, 2.0 * round + 2.0, busy=True)
            if round:
                assert rate.interval_s == pytest.approx(0.5)


def test_a_launch_alone_does_not_show_how_fast_many_are() -> None:
    """What was measured with all workers busy is remembered, as far as it can still be true."""
    rate = LaunchRate(2)
    for number in range(10):
        rate.note(number - 2.0, number, busy=True)
    for number in range(50):
        rate.note(20.0 + number, 21.2 + number, busy=False)
    assert rate.interval_s == pytest.approx(1.0, rel=0.01), "not half of 1.2"
    for number in range(50):
        rate.note(80.0 + number, 80.1 + number, busy=False)
    assert rate.interval_s == pytest.approx(0.1, rel=0.01), "no slower than one after the other"


@pytest.mark.parametrize("idle", [True, False])
def test_pauses_are_not_measured(idle: bool) -> None:
    rate = LaunchRate(1)
    for start in (0.0, 100.0):
        for number in range(3):
            rate.note(start + number, start + number + 0.9, busy=True)
        if idle:
            rate.note(start + 3, start + 3.9, busy=False)
        else:
            rate.interrupted()
    assert rate._interval_s == pytest.approx(1.0)

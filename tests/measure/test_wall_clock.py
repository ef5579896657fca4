"""A record of a run during which the wall clock was set says so, and ends after it begins."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from harness.measure import record, wall_clock
from harness.procedures.ladder import Climb, conclude
from harness.rig.discovery import discover
from harness.rig.recorder import RigRun
from harness.sandbox.noop import NoopSandbox
from tests.measure.factory import run_record, series

Shift = Callable[[float], None]


@pytest.fixture
def shift(monkeypatch: pytest.MonkeyPatch) -> Shift:
    """Sets the wall clock, as this process sees it."""
    real, by = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: real() + by[0])

    def set_clock(seconds: float) -> None:
        by[0] = seconds

    return set_clock


@pytest.mark.parametrize("seconds", [-3600.0, -1.0, 0.5, 86_400.0])
def test_a_step_is_noticed_whichever_way(seconds: float, shift: Shift) -> None:
    before = wall_clock.read()
    shift(seconds)
    assert wall_clock.step(before, wall_clock.read()) == pytest.approx(seconds, abs=0.1)


def test_slewing_is_no_step() -> None:
    before = wall_clock.Reading(1000.0, 0.0)
    assert wall_clock.step(before, wall_clock.Reading(1000.0 + 60 * 500e-6, 60.0)) == 0
    assert wall_clock.step(before, wall_clock.Reading(1000.5, 60.0)) == 0.5


def test_a_reading_that_was_interrupted_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process may lose its processor between the two clocks."""
    pauses = itertools.cycle([0.2, 0.0, 0.0, 0.0, 0.0])
    now = [100.0]

    def wall() -> float:
        now[0] += next(pauses)
        return now[0] + 1000

    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(time, "time", wall)
    assert wall_clock.read().offset == 1000


def _record(results: Path, during: Callable[[], None]) -> record.RunRecord:
    rig = discover().found["cold-start"]
    made = RigRun(results, "quick")
    made.begin()
    during()
    made.end()
    clock = run_record().clock
    return record.load(made.write(rig.info, rig.path, [series()], clock))


@pytest.mark.parametrize("seconds", [-7200.5, 7200.5])
def test_a_record_ends_after_it_begins_and_names_the_step(
    seconds: float, shift: Shift, tmp_path: Path
) -> None:
    made = _record(tmp_path, lambda: shift(seconds))
    begun, ended = map(datetime.fromisoformat, (made.started, made.finished))
    assert 0 <= (ended - begun).total_seconds() < 600
    assert made.validity.status == "suspect"
    (reason,) = (reason for reason in made.validity.reasons if "wall clock" in reason)
    assert f"moved by {'-' if seconds < 0 else '+'}7" in reason


def test_a_record_of_a_steady_clock_names_none(tmp_path: Path) -> None:
    made = _record(tmp_path, lambda: None)
    assert not [reason for reason in made.validity.reasons if "wall clock" in reason]


class Resumed(NoopSandbox):
    """A fake whose vCPU ran at a moment that the test names."""

    moment = 0.0

    def resumed_at(self) -> float:
        return self.moment


def _conclude(moment: float, clocks: wall_clock.Reading) -> Climb:
    sandbox: Any = Resumed.__new__(Resumed)
    sandbox.moment = moment
    done = Climb({"object": 1.0, "first-reply": 2.0}, None, sandbox, 100.0, clocks)
    conclude([done], lambda sandbox: None, own_kernel=False)
    return done


def test_an_attempt_during_which_the_clock_was_set_is_counted_even_if_it_is_set_back(
    shift: Shift,
) -> None:
    wall_clock.watch.begin()
    before = wall_clock.read()
    shift(-5.0)
    _conclude(101.5, before)
    shift(0.0)
    (reason,) = wall_clock.watch.reasons()
    assert "during 1 attempts" in reason


def test_a_vcpu_that_ran_before_its_vmm_is_counted() -> None:
    wall_clock.watch.begin()
    done = _conclude(100.5, wall_clock.read())
    assert done.rungs["resumed"] == 1.0
    assert "1 samples of resumed were bounded" in wall_clock.watch.reasons()[0]
    wall_clock.watch.begin()
    _conclude(101.5, wall_clock.read())
    _conclude(0.0, wall_clock.read())  # it has run since its VMM exists
    assert wall_clock.watch.reasons() == []

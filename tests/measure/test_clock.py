"""Calibration gives the right values for clocks with known properties."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time

import pytest

from harness.measure import clock, record
from harness.procedures.ladder import RUNGS
from tests.measure.factory import run_record


@pytest.mark.parametrize(("step", "every"), [(1, 1), (40, 1), (1000, 7), (1_000_000, 250)])
def test_calibration_finds_the_step_of_a_clock(step: int, every: int) -> None:
    """A clock that advances by `step` every `every` readings costs step / every on average."""
    readings = itertools.count()
    resolution, overhead = clock.calibrate(lambda: next(readings) // every * step)
    assert resolution == step
    assert overhead == pytest.approx(step / every, rel=0.7)


def test_a_slow_reading_does_not_affect_the_calibration() -> None:
    times = itertools.accumulate(
        itertools.cycle([50] * 5000 + [10_000_000]),
    )
    assert clock.calibrate(lambda: next(times)) == (50, 50)


def test_the_clock_of_this_machine_is_monotonic_and_fine_enough() -> None:
    assert time.get_clock_info("perf_counter").monotonic
    found = clock.cold_start_clock()
    # The shortest claim is 0.05 ms: the resolution must be much finer.
    assert 0 < found.resolution_ns < 5_000
    assert 0 < found.overhead_ns < 5_000
    assert found.source.startswith("time.perf_counter_ns")


def test_readings_of_two_processes_are_comparable() -> None:
    before = clock.now_ns()
    read = "from harness.measure import clock; print(clock.now_ns())"
    child = subprocess.run([sys.executable, "-c", read], check=True, capture_output=True)
    assert before < int(child.stdout) < clock.now_ns()


def test_the_clock_names_every_rung_and_is_valid_in_a_record() -> None:
    found = clock.cold_start_clock()
    assert list(found.stop) == ["object", "resumed", "first-reply", "first-exec", "first-touch"]
    assert found.start == "the caller's request"
    assert all(found.stop.values())
    record.check(run_record(clock=found).to_json())


def test_the_measured_ladder_is_the_documented_one() -> None:
    assert tuple(rung.name for rung in clock.LADDER) == RUNGS

"""Options of storms that make no sense are refused before anything starts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.load import arrivals
from harness.load.arrivals import Arrival, Schedule
from harness.procedures.storm_options import StormOptions


def parsed(options: Mapping[str, str]) -> StormOptions:
    return StormOptions.parse(options, 10, 100, known=("default", "sh"), step_s=5)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"sweep": "yes", "step": "1e9"}, "are no schedule"),
        ({"sweep": "yes", "step": "100000s", "rate": "1"}, "are no schedule"),
        ({"sweep": "yes", "rate": "1e9"}, "are no schedule"),
        ({"n": "1000001"}, "are no schedule"),
        ({"step": "5s"}, "--step is of a sweep"),
        ({"bound": "5s"}, "--bound is of a sweep"),
        ({"rate": "1_0"}, "'1_0' is not a positive number"),
        ({"rate": "\u0663"}, "is not a positive number"),
        ({"rate": "inf"}, "is not a positive number"),
        ({"hold": "9", "n": "9"}, "--n does not go with --hold"),
        ({"arrivals": "/dev/zero"}, "no regular file"),
    ],
)
def test_a_storm_that_cannot_be_is_refused(options: Mapping[str, str], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        parsed(options)


@pytest.mark.parametrize("name", ["seed", "lifetime", "programs", "rate", "n", "hold", "sweep"])
def test_a_trace_file_takes_nothing_beside_it(name: str, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    arrivals.dump(arrivals.constant(1, 3), trace)
    assert len(parsed({"arrivals": str(trace)}).schedule()) == 3
    with pytest.raises(UsageError, match=f"--{name} does not go with --arrivals"):
        parsed({"arrivals": str(trace), name: "1"})


def test_a_trace_file_has_known_kinds(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    arrivals.dump(Schedule("trace", 1, [Arrival(0), Arrival(1, kind="cobol")]), trace)
    with pytest.raises(UsageError, match="trace, line 3: the kind 'cobol' is unknown"):
        parsed({"arrivals": str(trace)})


def test_no_step_of_a_sweep_is_beyond_what_a_schedule_may_have() -> None:
    asked = parsed({"sweep": "yes", "step": "10s"})
    arrivals.require_possible(asked.most_rate, round(asked.most_rate * asked.step_s))
    with pytest.raises(UsageError, match="are no schedule"):
        arrivals.require_possible(asked.most_rate * 2, round(asked.most_rate * 2 * asked.step_s))

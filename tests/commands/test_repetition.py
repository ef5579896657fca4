"""`coppice run --repeat N --spread TIME`: runs of their own, waits that end on a signal."""

from __future__ import annotations

import argparse
import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness import cli, errors
from harness.measure import record
from harness.measure.conditions import Conditions, Reach
from harness.rig import repetition
from tests.host.processes import ROOT

NOOP = ("run", "cold-start", "--substrate", "noop", "--concurrency", "1")


def asked(repeat: int, spread: float | None = None) -> argparse.Namespace:
    return argparse.Namespace(repeat=repeat, spread=spread, interleave=None)


@pytest.mark.parametrize(
    ("text", "seconds"), [("0s", 0), ("90s", 90), ("20m", 1200), ("1.5h", 5400), ("7d", 604_800)]
)
def test_a_time_has_a_unit(text: str, seconds: float) -> None:
    assert repetition.duration(text) == seconds


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("--repeat", value) for value in ("0", "-1", "1001", "x", "1e3", "٣", "9" * 30, "")),
        *(("--spread", value) for value in ("1", "-1h", "8d", "1w", "h", "nans", "1h ", "٣h", "")),
    ],
)
def test_values_are_bounded(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main([*NOOP, f"{option}={value}"])
    assert end.value.code == 64
    assert f"argument {option}: {value!r} is not a" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--spread", "1h"), "--spread is the time between repeated runs"),
        (("--repeat", "2", "--interleave", "tier=full", "tier=full"), "exclude each other"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_runs(
    options: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*NOOP, *options, "--results", str(tmp_path)]) == 64
    assert message in capsys.readouterr().err
    assert not list(record.find(tmp_path))


def test_each_run_has_records_of_its_own_and_a_failed_one_does_not_stop_the_others(
    capsys: pytest.CaptureFixture[str],
) -> None:
    ends: list[int | Exception] = [
        0,
        errors.DiskFull("no space"),
        1,
        OSError(12, "Cannot allocate memory"),
        0,
    ]
    made = iter(ends)

    def once() -> int:
        end = next(made)
        if isinstance(end, Exception):
            raise end
        return end

    assert repetition.repeated(asked(5), once) == 74
    shown = capsys.readouterr().err
    assert "run 5 of 5" in shown and "no space" in shown
    assert "5 runs were made; failed: 2, 3, 4" in shown


@pytest.mark.parametrize(
    "end", [errors.UsageError("wrong"), errors.Unsupported("no KVM"), ZeroDivisionError()]
)
def test_what_would_fail_each_time_is_not_repeated(end: Exception) -> None:
    calls = []

    def once() -> int:
        calls.append(1)
        raise end

    with pytest.raises(type(end)):
        repetition.repeated(asked(3, 3600), once)
    assert len(calls) == 1


def test_a_usage_error_of_a_run_ends_all() -> None:
    codes = iter([64, 0, 0])
    assert repetition.repeated(asked(3, 3600), lambda: next(codes)) == 64
    assert list(codes) == [0, 0]


def test_the_wait_counts_from_the_beginning_of_a_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now, slept = [1000.0], list[float]()

    def once() -> int:
        now[0] += 600
        return 0

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", slept.append)
    assert repetition.repeated(asked(3, 3600), once) == 0
    assert slept == [3000, 3000]
    assert "run 2 of 3 begins at 20" in (shown := capsys.readouterr().err)
    assert "UTC, in 50 min (Ctrl-C to stop)" in shown
    assert repetition.repeated(asked(3, 60), once) == 0
    assert len(slept) == 2, "a run that took longer is followed at once"


def test_the_wait_ends_on_a_signal_and_the_first_record_is_kept(tmp_path: Path) -> None:
    results = tmp_path / "results"
    argv = [*NOOP, "--repeat", "2", "--spread", "1h", "--results", str(results)]
    environment = {**os.environ, "COPPICE_RUNTIME": str(tmp_path / "runtime")}
    with subprocess.Popen(
        [sys.executable, "-m", "harness.cli", *argv],
        cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True, encoding="utf-8",
    ) as process:  # fmt: skip
        assert process.stderr
        for line in process.stderr:
            if "run 2 of 2 begins at" in line:
                process.send_signal(signal.SIGTERM)
        assert process.wait() == 143
    (path,) = record.find(results)
    made = record.load(path)
    conditions = {one.metric: one.conditions for one in made.series}
    assert conditions["first-reply"] == Conditions("none", Reach.ANYWHERE, None)
    assert all(dataclasses.is_dataclass(one) for one in conditions.values())

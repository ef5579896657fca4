"""A storm that is interrupted or killed: everything goes, and no record is written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from harness.host.run import VARIABLE
from harness.measure.record import find
from harness.rig.stages import BEGUN
from tests.host.processes import ROOT, carrying, coppice, eventually, what_is_there
from tests.stages import Stages

STORM = ("run", "storm", "--substrate", "process", "--hold", "60", "--rate", "4", "--pool", "2")
"""Fifteen seconds of arrivals, all held until the last has come: the storm ends no sooner."""
SOME = 3


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "runtime"
    monkeypatch.setenv("COPPICE_RUNTIME", str(directory))
    monkeypatch.setenv("COPPICE_FAILURES", str(tmp_path / "failures"))
    return directory


def storm_with_sandboxes(stages: Stages, runtime: Path, results: Path) -> subprocess.Popen[str]:
    """A storm in which some sandboxes live."""
    process = subprocess.Popen(
        [sys.executable, "-m", "harness.cli", *STORM, "--results", str(results)],
        cwd=ROOT,
        env={**os.environ, **stages.environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    )
    with stages.at(BEGUN, process):
        ready = len(sandboxes(runtime))
    eventually(lambda: len(sandboxes(runtime)) >= ready + SOME)
    return process


def sandboxes(runtime: Path) -> list[int]:
    return carrying(f"{VARIABLE}={runtime}/")


def test_a_storm_ended_by_ctrl_c_removes_everything(runtime: Path, tmp_path: Path) -> None:
    with Stages(tmp_path, BEGUN) as stages:
        process = storm_with_sandboxes(stages, runtime, tmp_path / "results")
        process.send_signal(signal.SIGINT)
        output = process.communicate(timeout=200)[0]
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert sandboxes(runtime) == []
    assert what_is_there(runtime) == []
    assert not list(find(tmp_path / "results"))


def test_clean_removes_what_a_killed_storm_has_left(runtime: Path, tmp_path: Path) -> None:
    with Stages(tmp_path, BEGUN) as stages:
        process = storm_with_sandboxes(stages, runtime, tmp_path / "results")
        (measuring,) = psutil.Process(process.pid).children()
        process.kill()
        measuring.kill()
        process.communicate(timeout=60)
    assert what_is_there(runtime)
    done = coppice("clean")
    assert done.returncode == 0, done.stdout + done.stderr
    eventually(lambda: sandboxes(runtime) == [])
    assert what_is_there(runtime) == []
    assert not list(find(tmp_path / "results"))

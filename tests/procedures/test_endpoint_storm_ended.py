"""A storm over an API that is interrupted: gateway and generators end, and no record is written."""

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
from tests.host.processes import ROOT, carrying, eventually, what_is_there
from tests.stages import Stages

pytest.importorskip("distributed", reason="needs the extra lab")

STORM = (
    "run", "e2b-storm", "--substrate", "noop", "--hold", "60", "--rate", "1", "--generators", "2"
)  # fmt: skip
"""A minute of arrivals, all held until the last has come: the storm ends no sooner."""
GENERATOR = "harness.load.generator_process"


def test_a_storm_of_several_generators_ended_by_ctrl_c(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime, results = tmp_path / "runtime", tmp_path / "results"
    monkeypatch.setenv("COPPICE_RUNTIME", str(runtime))
    monkeypatch.setenv("COPPICE_FAILURES", str(tmp_path / "failures"))

    def ours() -> list[int]:
        return carrying(f"{VARIABLE}={runtime}/")

    with Stages(tmp_path, BEGUN) as stages:
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
            lines = [psutil.Process(pid).cmdline() for pid in ours()]
            assert sum(GENERATOR in line for line in lines) == 2
            assert any("gateway" in line for line in lines)
        process.send_signal(signal.SIGINT)
        output = process.communicate(timeout=200)[0]
    assert process.returncode == 130, output
    assert "Traceback" not in output
    eventually(lambda: ours() == [])
    assert what_is_there(runtime) == []
    assert not list(find(results))

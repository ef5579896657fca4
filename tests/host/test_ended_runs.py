"""Rigs that are ended by signals, by a second signal and by SIGKILL: nothing stays behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from harness.host.run import VARIABLE
from harness.interrupts import SAME_S
from harness.measure.record import find as records_in
from harness.rig.stages import ANSWERED, BEGUN
from harness.sandbox.protocol import load
from tests.host.processes import (
    ROOT,
    carrying,
    coppice,
    eventually,
    what_is_there,
)
from tests.stages import Stages

needs_qemu = pytest.mark.skipif(
    not all(need.satisfied for need in load("qemu").requirements()),
    reason="QEMU is not installed: bin/mise run setup",
)


def rig(tier: str, results: Path) -> list[str]:
    """The command of a rig that is interrupted."""
    return [
        "run", "cold-start", "--substrate", "qemu", "--tier", tier, "--concurrency", "1",
        "--results", str(results),
    ]  # fmt: skip


def begun(argv: list[str], stages: Stages) -> subprocess.Popen[str]:
    """A process that runs a rig, which reports its stages."""
    return subprocess.Popen(
        [sys.executable, "-m", *argv], cwd=ROOT, env={**os.environ, **stages.environment},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8",
    )  # fmt: skip


@needs_qemu
@pytest.mark.parametrize(
    ("tier", "number", "code", "said"),
    [
        ("full", signal.SIGINT, 130, "interrupted"),
        ("durable-prewarm-pool", signal.SIGINT, 130, "interrupted"),
        ("durable-prewarm-pool", signal.SIGTERM, 143, "ended by SIGTERM"),
        ("durable-prewarm-pool", signal.SIGHUP, 129, "ended by SIGHUP"),
    ],
)
def test_a_command_ended_by_a_signal_removes_everything(
    tier: str, number: signal.Signals, code: int, said: str, runtime: Path, tmp_path: Path
) -> None:
    with Stages(tmp_path, ANSWERED) as stages:
        with begun(["harness.cli", *rig(tier, tmp_path / "results")], stages) as process:
            with stages.at(ANSWERED, process):
                assert carrying(f"{VARIABLE}={runtime}/")
                process.send_signal(number)
                output = process.communicate(timeout=200)[0]
    assert process.returncode == code, output
    assert f"coppice: {said}" in output
    assert carrying(str(runtime)) == []
    assert what_is_there(runtime) == []
    assert not list((tmp_path / "results").rglob("*.json"))


def test_records_written_before_the_signal_are_kept(runtime: Path, tmp_path: Path) -> None:
    """The first case has its record and its pytest-benchmark file."""
    results = tmp_path / "results"
    words = ["run", "cold-start", "--substrate", "noop", "--results", str(results)]
    with Stages(tmp_path, BEGUN) as stages:
        with begun(["harness.cli", *words], stages) as process:
            with stages.at(BEGUN, process):
                pass
            with stages.at(BEGUN, process):
                process.send_signal(signal.SIGTERM)
                output = process.communicate(timeout=200)[0]
    assert process.returncode == 143, output
    (path,) = records_in(results)
    (beside,) = path.parent.glob("*.pytest-benchmark.json")
    (one,) = json.loads(beside.read_text(encoding="utf-8"))["benchmarks"]
    assert one["extra_info"]["record"] == path.name
    assert what_is_there(runtime) == []


def pending(pid: int) -> set[int]:
    """Signals pending for a process and all of its threads."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    found = 0
    for line in lines:
        if line.startswith(("SigPnd:", "ShdPnd:")):
            found |= int(line.split()[1], 16)
    return {number for number in range(1, 65) if found >> (number - 1) & 1}


@needs_qemu
def test_a_second_interrupt_does_not_wait(runtime: Path, tmp_path: Path) -> None:
    with Stages(tmp_path, ANSWERED) as stages:
        with begun(
            ["harness.cli", *rig("durable-prewarm-pool", tmp_path / "results")], stages
        ) as process:
            with stages.at(ANSWERED, process):
                (pytest_process,) = psutil.Process(process.pid).children()
                pytest_process.suspend()  # as one that waits for a guest which does not answer
                # Until it has stopped, it would still take the interrupt.
                eventually(lambda: pytest_process.status() == psutil.STATUS_STOPPED)
                process.send_signal(signal.SIGINT)
                # It has taken note once it has passed the interrupt on.
                eventually(lambda: signal.SIGINT in pending(pytest_process.pid))
                time.sleep(SAME_S[signal.SIGINT])  # sooner, it would count as the same request
                process.send_signal(signal.SIGINT)
                output = process.communicate(timeout=200)[0]
    assert process.returncode == 130, output
    assert carrying(str(runtime)) == []
    assert what_is_there(runtime) == []


@needs_qemu
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_pytest_takes_everything_down(
    number: signal.Signals, code: int, runtime: Path, tmp_path: Path
) -> None:
    argv = ["pytest", "rigs", "-p", "no:cacheprovider"]
    argv += ["-k", "qemu-durable-prewarm-pool-cc1", f"--coppice-results={tmp_path}"]
    with Stages(tmp_path, ANSWERED) as stages, begun(argv, stages) as process:
        with stages.at(ANSWERED, process):
            assert carrying(f"{VARIABLE}={runtime}/")
            process.send_signal(number)
            output = process.communicate(timeout=200)[0]
    assert process.returncode == code, output
    assert carrying(f"{VARIABLE}={runtime}/") == []
    assert what_is_there(runtime) == []


@needs_qemu
def test_a_rig_whose_parent_was_killed_takes_everything_down(runtime: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    with Stages(tmp_path, ANSWERED) as stages:
        argv = ["harness.cli", *rig("durable-prewarm-pool", results)]
        with begun(argv, stages) as process:
            with stages.at(ANSWERED, process):
                (pytest_process,) = psutil.Process(process.pid).children()
                process.kill()
                pytest_process.wait(200)
            process.wait(60)
    assert carrying(str(runtime)) == []
    assert not list(results.rglob("*.json"))
    # The directory of the killed command goes too: a run removes leftovers when it ends.
    assert what_is_there(runtime) == []


def test_a_killed_command_leaves_only_what_clean_removes(
    runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    argv = ["run", "cold-start", "--substrate", "noop", "--results", str(tmp_path / "results")]
    with Stages(tmp_path, BEGUN) as stages:
        with begun(["harness.cli", *argv], stages) as process:
            with stages.at(BEGUN, process):
                (pytest_process,) = psutil.Process(process.pid).children()
                for pid in (process.pid, pytest_process.pid):
                    os.kill(pid, signal.SIGKILL)
            process.wait(60)
    assert [path for path in temporary.iterdir() if path.name.startswith("coppice")] == []
    assert what_is_there(runtime)
    assert coppice("clean").returncode == 0
    assert what_is_there(runtime) == []

"""Every command that a signal ends takes down what it made, and exits with 128 plus the signal."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import termios
from collections.abc import Sequence
from fcntl import ioctl
from pathlib import Path
from typing import Any

import psutil
import pytest

from harness.measure.record import find, load
from harness.rig.stages import BEGUN, ENDED, WRITTEN
from tests.commands.interrupted_collection import MOMENT
from tests.commands.plugins import loaded_by_rigs
from tests.host.processes import ROOT, carrying, eventually
from tests.stages import Stages

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "runtime"
    monkeypatch.setenv("COPPICE_RUNTIME", str(directory))
    return directory


def noop(tmp_path: Path) -> list[str]:
    return [
        "run", "cold-start", "--substrate", "noop", "--concurrency", "1",
        "--results", str(tmp_path / "results"),
    ]  # fmt: skip


def coppice(
    argv: Sequence[str], stages: Stages | None = None, **options: Any
) -> subprocess.Popen[str]:
    given: dict[str, Any] = {
        "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True,
        "env": {**os.environ, **(stages.environment if stages else {})},
    } | options  # fmt: skip
    return subprocess.Popen([sys.executable, "-m", "harness", *argv], cwd=ROOT, **given)


def nothing_left(runtime: Path) -> bool:
    return not carrying(str(runtime)) and not [
        path for path in runtime.glob("*") if path.name != "leases" or list(path.iterdir())
    ]


@pytest.mark.parametrize(
    ("number", "stage"),
    [(signal.SIGTERM, BEGUN), (signal.SIGHUP, ENDED), (signal.SIGINT, WRITTEN)],
)
def test_the_same_signal_twice_in_a_row_is_one_orderly_end(
    number: signal.Signals, stage: str, runtime: Path, tmp_path: Path
) -> None:
    with Stages(tmp_path, stage) as stages, coppice(noop(tmp_path), stages) as process:
        with stages.at(stage, process):
            process.send_signal(number)
            process.send_signal(number)
            output = process.communicate(timeout=200)[0]
    assert process.returncode == CODES[number], output
    assert "Traceback" not in output
    assert nothing_left(runtime)
    made = list(find(tmp_path / "results"))
    assert len(made) == (stage == WRITTEN)
    for path in made:
        load(path)
    assert not list(tmp_path.rglob(".half-written-*"))


def test_a_terminal_that_goes_away_ends_the_run(runtime: Path, tmp_path: Path) -> None:
    ours, its = pty.openpty()
    with (
        Stages(tmp_path, BEGUN) as stages,
        coppice(
            noop(tmp_path), stages, stdin=its, stdout=its, stderr=its,
            start_new_session=True, preexec_fn=lambda: ioctl(0, termios.TIOCSCTTY, 0),
        ) as process,
    ):  # fmt: skip
        os.close(its)
        with stages.at(BEGUN, process):
            os.close(ours)
            assert process.wait(200) == 129
    assert nothing_left(runtime)
    assert not list(find(tmp_path / "results"))


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel reports a parent's end on Linux")
def test_a_killed_command_ends_the_process_that_measures(runtime: Path, tmp_path: Path) -> None:
    with Stages(tmp_path, BEGUN) as stages, coppice(noop(tmp_path), stages) as process:
        with stages.at(BEGUN, process):
            (measuring,) = psutil.Process(process.pid).children()
            process.kill()
            process.wait(60)
            eventually(lambda: not measuring.is_running())
    assert not list(find(tmp_path / "results"))
    eventually(lambda: nothing_left(runtime))


@pytest.mark.parametrize(
    ("command", "number"),
    [("compare", signal.SIGTERM), ("export", signal.SIGHUP), ("site", signal.SIGTERM)],
)
def test_a_command_that_only_reads_ends_too(
    command: str, number: signal.Signals, tmp_path: Path
) -> None:
    results = tmp_path / "results"
    waits = results / "machine" / "20260101T000000Z-00000000.cold-start.run.json"
    waits.parent.mkdir(parents=True)
    os.mkfifo(waits)
    argv = {
        "compare": ["compare", "rig=a", "rig=b", "--results", str(results)],
        "export": ["export", "--pyperf", str(waits)],
        "site": ["site", "--results", str(results), "--out", str(tmp_path / "site")],
    }[command]
    with coppice(argv) as process:
        with waits.open("wb"):  # opens when the command does, which then waits for content
            process.send_signal(number)
            output = process.communicate(timeout=60)[0]
    assert process.returncode == CODES[number], output
    assert output.strip() == f"coppice: ended by {number.name}"


@pytest.mark.parametrize("number", CODES)
def test_a_gateway_ends_with_everything_taken_down(
    number: signal.Signals, runtime: Path, tmp_path: Path
) -> None:
    argv = ["gateway", "--substrate", "noop", "--port", "0", "--state", str(tmp_path / "state")]
    with coppice(argv) as process:
        assert process.stdout
        assert "stop with Ctrl-C" in process.stdout.readline()
        process.send_signal(number)
        process.send_signal(number)
        output = process.communicate(timeout=100)[0]
    assert process.returncode == CODES[number], output
    assert "Traceback" not in output
    assert nothing_left(runtime)


LOADING = """
import os, sys
from harness import __main__

class Signals:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "harness.cli":
            os.kill(os.getpid(), int(sys.argv[1]))

sys.meta_path.insert(0, Signals)
sys.exit(__main__.main())
"""
"""`coppice`, with a signal at the moment when it begins to load its modules."""


@pytest.mark.parametrize("number", CODES)
def test_a_signal_that_comes_while_the_program_is_loaded_has_its_code(
    number: signal.Signals,
) -> None:
    argv = [sys.executable, "-c", LOADING, str(number.value)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == CODES[number]
    assert done.stderr.startswith("coppice: ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("moment", ["loading", "collection"])
def test_a_signal_before_the_first_case_has_its_code(moment: str, tmp_path: Path) -> None:
    plugin = loaded_by_rigs(tmp_path / "site", "tests.commands.interrupted_collection")
    with coppice(noop(tmp_path), env={**os.environ, **plugin, MOMENT: moment}) as process:
        output = process.communicate(timeout=200)[0]
    assert process.returncode == 143, output
    assert "Traceback" not in output and "KeyboardInterrupt" not in output
    assert output.splitlines()[-1] == "coppice: ended by SIGTERM"

"""The documented exit codes hold whichever process the error comes from."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness import cli, errors
from harness.commands import compare
from harness.rig import measuring_process
from tests.commands.plugins import loaded_by_rigs
from tests.host.processes import coppice

DIES = [sys.executable, "-c", "import os, sys; os.kill(os.getpid(), int(sys.argv[1]))"]


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COPPICE_RUNTIME", str(tmp_path / "runtime"))


def test_an_error_of_the_system_in_a_rig_keeps_its_code(tmp_path: Path) -> None:
    done = coppice(
        "run", "cold-start", "--substrate", "noop", "--concurrency", "1",
        "--results", str(tmp_path / "results"),
        TEST_FAILS_WITH="EMFILE", **loaded_by_rigs(tmp_path, "tests.commands.failing_rig"),
    )  # fmt: skip
    assert done.returncode == 71, done.stdout + done.stderr


def test_a_process_that_the_kernel_kills_for_memory_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counts = iter((3, 4))
    monkeypatch.setattr(measuring_process, "oom_kills", lambda system: next(counts))
    with pytest.raises(errors.LimitReached, match="ran out of memory") as caught:
        measuring_process.run([*DIES, str(signal.SIGKILL.value)], {})
    assert caught.value.exit_code == 71


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGRTMIN])
def test_a_process_that_a_signal_kills_is_named(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring_process, "oom_kills", lambda system: 3)
    with pytest.raises(errors.Interrupted, match=f"was ended by .*{number.name}") as caught:
        measuring_process.run([*DIES, str(number.value)], {})
    assert caught.value.exit_code == 128 + number


@pytest.mark.parametrize("code", [2, 3, 4])
def test_a_code_of_pytest_alone_is_a_defect(code: int) -> None:
    with pytest.raises(errors.CoppiceError) as caught:
        measuring_process.run([sys.executable, "-c", f"raise SystemExit({code})"], {})
    assert caught.value.exit_code == 70


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ZeroDivisionError(), 70),
        (KeyError("x"), 70),
        (RecursionError("too deep"), 70),
        (MemoryError(), 71),
        (BlockingIOError(11, "Resource temporarily unavailable"), 71),
        (RuntimeError("can't start new thread"), 71),
        (OSError(24, "Too many open files"), 71),
        (OSError(28, "No space left on device"), 74),
        (OSError(27, "File too large"), 73),
        (FileNotFoundError(2, "No usable temporary directory found in ['/tmp']"), 73),
        (OSError(5, "Input/output error"), 70),
        (PermissionError(13, "Permission denied", "x"), 73),
        (errors.NotEnoughMemory("much"), 71),
        (KeyboardInterrupt(), 130),
    ],
)
def test_no_error_of_compare_is_taken_for_worse(
    error: BaseException,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(_: object) -> int:
        raise error

    monkeypatch.setattr(compare, "main", fail)
    assert cli.main(["compare", "a", "b"]) == code
    shown = capsys.readouterr().err
    assert [line[:9] for line in shown.splitlines()].count("coppice: ") == 1
    assert ("Traceback" in shown) == (code == 70)


@pytest.mark.parametrize(
    "argv",
    [
        ["run", "--help"],
        ["run", "cold-start", "--substrate", "noop", "--concurrency", "1", "--results"],
        ["gateway", "--substrate", "noop", "--port", "0", "--state"],
    ],
    ids=["help", "run", "gateway"],
)
def test_a_full_device_as_output_has_its_code(argv: list[str], tmp_path: Path) -> None:
    given = argv if argv[-1] == "--help" else [*argv, str(tmp_path / "place")]
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-m", "harness", *given]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 74 and b"Traceback" not in done.stderr

"""A context of the code interpreter on its own: interrupts of cells."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.gateway.fleets.disk import KERNEL_PROGRAM

Run = Callable[[str], list[dict[str, object]]]


@pytest.fixture
def process(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    argv = [sys.executable, str(KERNEL_PROGRAM)]
    with subprocess.Popen(
        argv, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as started:
        yield started
        started.kill()


@pytest.fixture
def run(process: subprocess.Popen[bytes]) -> Run:
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout
    assert json.loads(stdout.readline())["type"] == "ready"

    def run_cell(code: str) -> list[dict[str, object]]:
        stdin.write(json.dumps({"code": code}).encode() + b"\n")
        stdin.flush()
        lines: list[dict[str, object]] = []
        while not lines or lines[-1]["type"] != "end_of_execution":
            lines.append(json.loads(stdout.readline()))
        return lines

    return run_cell


def test_an_interrupt_just_before_a_system_call_ends_the_cell(run: Run) -> None:
    # Another thread gets the signal: the main thread sleeps on, as when the signal arrives just
    # before the system call.
    code = """
import signal, threading, time
def late():
    main = threading.main_thread().native_id
    while "nanosleep" not in open(f"/proc/self/task/{main}/wchan").read():
        time.sleep(0.01)
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)
threading.Thread(target=late).start()
time.sleep(600)
"""
    assert any(line.get("name") == "KeyboardInterrupt" for line in run(code))
    assert any(line.get("text") == "2" for line in run("1+1"))


def test_a_late_interrupt_does_not_end_the_next_cell(
    process: subprocess.Popen[bytes], run: Run
) -> None:
    for _ in range(20):
        run("x = 1")
        process.send_signal(signal.SIGINT)
        assert any(line.get("text") == "2" for line in run("x + 1"))

"""Programs for set-up end with what waits for them."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import CoppiceError
from harness.host.process import run
from tests.host.processes import eventually

WAITS = """
from harness import interrupts
from harness.host.process import run
interrupts.raise_from_now_on()
run("sh", "-c", "echo $$ > {0}/first; sh -c 'echo $$ > {0}/second; exec sleep 600' | cat; true")
"""


def _lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at Linux's /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_program_ends_with_what_it_has_started(tmp_path: Path, number: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WAITS.format(tmp_path)], stderr=subprocess.PIPE, encoding="utf-8"
    ) as waiting:
        files = [tmp_path / "first", tmp_path / "second"]
        eventually(lambda: all(one.exists() and one.stat().st_size > 1 for one in files))
        pids = [int(one.read_text(encoding="utf-8")) for one in files]
        waiting.send_signal(number)
        _, told = waiting.communicate(timeout=30)
    assert "Interrupted" in told or "KeyboardInterrupt" in told
    assert [pid for pid in pids if _lives(pid)] == []


def test_a_programs_output_and_its_failure() -> None:
    assert run("sh", "-c", "echo out") == b"out\n"
    with pytest.raises(CoppiceError, match=r"exited with 3: one \| two"):
        run("sh", "-c", "printf 'one\\ntwo\\n' >&2; exit 3")

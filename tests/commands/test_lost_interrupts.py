"""An interrupt that Python would only print, because it came in a finaliser."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import os, signal, time
from harness import interrupts
from harness.errors import Interrupted

class Interrupting:
    def __del__(self):
        os.kill(os.getpid(), signal.{signal})
        time.sleep(0)

interrupts.raise_from_now_on()
found = Interrupting()
try:
    del found
    print("lost", flush=True)
    time.sleep(60)
    print("never raised")
except Interrupted as end:
    print("raised", end.exit_code)
"""


@pytest.mark.parametrize(("signal", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_an_interrupt_in_a_finaliser_is_raised_again(signal: str, code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(signal=signal)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
    )
    assert done.stdout == f"lost\nraised {code}\n", done.stderr

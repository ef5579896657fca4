"""How a program ended, asked by its owner at the moment that its channel closes."""

from __future__ import annotations

import socket
import subprocess
import sys

from harness.host import evidence

ENDING = "import os, sys, time; os.close(0); time.sleep(0.2); os._exit(3)"
STAYS = "import time; time.sleep(60)"


def test_a_program_that_is_ending_is_told_from_one_that_runs() -> None:
    """The kernel closes an ending process's channels before it can be reaped."""
    own, other = socket.socketpair()
    with own:
        with other:
            process = subprocess.Popen([sys.executable, "-c", ENDING], stdin=other.fileno())
        assert own.recv(1) == b""
        assert process.poll() is None, "it is to be ending still"
        assert evidence.code_if_ended(process, own.fileno()) == 3


def test_a_program_that_runs_is_not_waited_for() -> None:
    own, other = socket.socketpair()
    closed = socket.socket()
    closed.close()
    with own, other:
        process = subprocess.Popen([sys.executable, "-c", STAYS], stdin=other.fileno())
        try:
            assert evidence.code_if_ended(process, own.fileno(), closed.fileno()) is None
        finally:
            process.kill()
            process.wait()

"""A pytest plugin for tests: while pytest loads its plugins, or collects rigs, `coppice run` gets
SIGTERM."""

from __future__ import annotations

import os
import signal
import time

MOMENT = "TEST_INTERRUPTED_AT"


def _interrupt(moment: str) -> None:
    if os.environ[MOMENT] == moment:
        os.kill(os.getppid(), signal.SIGTERM)
        time.sleep(60)  # until `coppice run` interrupts this process


def pytest_addoption() -> None:
    _interrupt("loading")


def pytest_collectstart() -> None:
    _interrupt("collection")

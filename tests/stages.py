"""Acts at a stage of a rig that another process runs, instead of guessing when it is reached.

The rig's process loads this module as a plugin of pytest's, and stands still at each stage that the
test has named until the test lets it go on. The test's side is `Stages`.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

VARIABLE = "TEST_STAGES"
"""Names the socket where a test waits."""
NAMED = "TEST_STAGES_NAMED"
"""The stages that it waits for."""
LIMIT_S = 240.0
"""A bound against hanging."""
LOOK_S = 0.2
"""How often the test looks whether the process has ended meanwhile."""


def pytest_coppice_stage(stage: str) -> None:
    """Report a stage that was named and wait for the test's answer."""
    if stage not in os.environ[NAMED].split():
        return
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(os.environ[VARIABLE])
        line.sendall(stage.encode())
        line.recv(1)


class Stages:
    """Where a rig of one test reports the stages `named`, each of which the test has to await."""

    def __init__(self, folder: Path, *named: str) -> None:
        self._named = named
        self._path = folder / "stages"
        self._server = socket.socket(socket.AF_UNIX)

    def __enter__(self) -> Self:
        self._server.bind(str(self._path))
        self._server.listen()
        self._server.settimeout(LOOK_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()
        self._path.unlink()

    @property
    def environment(self) -> Mapping[str, str]:
        """What the process of the rig needs."""
        plugins = os.environ.get("PYTEST_ADDOPTS", "")
        return {
            VARIABLE: str(self._path),
            NAMED: " ".join(self._named),
            "PYTEST_ADDOPTS": f"{plugins} -p tests.stages",
        }

    @contextlib.contextmanager
    def at(self, stage: str, process: subprocess.Popen[Any]) -> Iterator[None]:
        """Wait until the rig comes to a stage; it stands still there until the block ends."""
        deadline = time.monotonic() + LIMIT_S
        while True:
            assert process.poll() is None, f"it ended before the stage {stage!r}"
            assert time.monotonic() < deadline, f"it did not come to the stage {stage!r}"
            try:
                line, _ = self._server.accept()
            except TimeoutError:
                continue
            with line, contextlib.suppress(ConnectionError):
                line.settimeout(LIMIT_S)
                assert line.recv(100).decode() == stage
                yield
                line.sendall(b"\n")
            return

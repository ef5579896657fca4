"""Lets a test act at a stage of a rig in another process, without guessing when it is reached.

The rig's process loads this module as a pytest plugin and pauses at each stage that the test has
named until the test lets it continue. The test's side is `Stages`.
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

from tests.commands.plugins import loaded_by_rigs

VARIABLE = "TEST_STAGES"
"""The path of the socket on which a test waits."""
NAMED = "TEST_STAGES_NAMED"
"""The stages that the test waits for."""
LIMIT_S = 240.0
"""Only a bound against hanging."""
POLL_S = 0.2
"""How often the test checks whether the process has ended."""


def pytest_coppice_stage(stage: str) -> None:
    """Report a named stage and wait for the test's reply."""
    if stage not in os.environ[NAMED].split():
        return
    with socket.socket(socket.AF_UNIX) as channel:
        channel.connect(os.environ[VARIABLE])
        channel.sendall(stage.encode())
        channel.recv(1)


class Stages:
    """The test's side: receives the stages `named`, each of which the test must await."""

    def __init__(self, directory: Path, *named: str) -> None:
        self._named = named
        self._plugin = loaded_by_rigs(directory / "plugins", "tests.stages")
        self._path = directory / "stages"
        self._server = socket.socket(socket.AF_UNIX)

    def __enter__(self) -> Self:
        self._server.bind(str(self._path))
        self._server.listen()
        self._server.settimeout(POLL_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.close()
        self._path.unlink()

    @property
    def environment(self) -> Mapping[str, str]:
        """The environment variables that the rig's process needs."""
        return {
            VARIABLE: str(self._path),
            NAMED: " ".join(self._named),
            **self._plugin,
        }

    @contextlib.contextmanager
    def at(self, stage: str, process: subprocess.Popen[Any]) -> Iterator[None]:
        """Wait until the rig reaches a stage; it pauses there until the block ends."""
        deadline = time.monotonic() + LIMIT_S
        while True:
            assert process.poll() is None, f"the rig ended before the stage {stage!r}"
            assert time.monotonic() < deadline, f"the rig did not reach the stage {stage!r}"
            try:
                channel, _ = self._server.accept()
            except TimeoutError:
                continue
            with channel, contextlib.suppress(ConnectionError):
                channel.settimeout(LIMIT_S)
                assert channel.recv(100).decode() == stage
                yield
                channel.sendall(b"\n")
            return

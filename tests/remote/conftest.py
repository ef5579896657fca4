"""The remote host: this machine behind a real sshd. Skipped where there is no sshd."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.remote.ssh_connection import CONFIG
from tests.remote.server import SSHD, Server, serving


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if os.geteuid() != 0:
        pytest.skip("sshd in a network namespace needs root")
    if not (Path(SSHD).exists() and shutil.which("ssh")):
        pytest.skip("needs sshd: bin/setup --tests")
    directory = tmp_path_factory.mktemp("sshd")
    env = {
        "HOME": str(directory),  # its shells read none of the user's files
        "XDG_CACHE_HOME": str(directory / "cache"),
        "COPPICE_RUNTIME": str(directory / "runtime"),
    }
    with serving(directory, env) as opened:
        yield opened


@pytest.fixture(autouse=True)
def local_side(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The local side: ssh settings and a runtime directory of the test's own."""
    monkeypatch.setenv(CONFIG, str(server.config))
    monkeypatch.setenv("COPPICE_RUNTIME", str(tmp_path / "near"))
    monkeypatch.setenv("COPPICE_CACHE", str(tmp_path / "near-cache"))
    if server.process is None:
        server.start()

"""The channels that docs/adding-a-microvm.md shows carry a real agent's answers."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.errors import GuestDied
from harness.guest import shared_agent
from harness.guest.agent_client import Agent
from harness.paths import cache_directory
from tests.commands.tools import ROOT
from tests.docs.blocks import blocks

PAGE = ROOT / "docs/adding-a-microvm.md"
PORT = 52


@pytest.fixture(scope="module")
def shown() -> Any:
    """What the page's Python defines."""
    (text,) = [one.text for one in blocks(PAGE) if one.attributes.get("file") == "channels.py"]
    names: dict[str, Any] = {}
    exec(compile(text, str(PAGE), "exec"), names)
    return SimpleNamespace(**names)


@pytest.fixture(scope="module")
def program() -> Path:
    return shared_agent.build(cache_directory())


def starts(program: Path, reads: Any, writes: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen([program], stdin=reads, stdout=writes, env={})


def test_an_agent_answers_over_two_pipes(shown: Any, program: Path) -> None:
    child = starts(program, subprocess.PIPE, subprocess.PIPE)
    assert child.stdin and child.stdout
    channel = shown.PipeChannel(os.dup(child.stdout.fileno()), os.dup(child.stdin.fileno()))
    child.stdin.close()
    child.stdout.close()
    agent = Agent(channel, "a guest behind pipes")
    try:
        agent.ping(10)
        long = bytes(range(256)) * 4096  # more than all pipes hold
        assert agent.run(["/bin/cat"], stdin=long).stdout == long
        channel.settimeout(0.05)
        with pytest.raises(TimeoutError):
            channel.recv(1)
        child.kill()
        child.wait()
        with pytest.raises(GuestDied):
            agent.ping(10)
    finally:
        child.kill()
        child.wait()
        agent.close()
        agent.close()


@pytest.fixture
def hybrid(program: Path, tmp_path: Path) -> Iterator[Path]:
    """A Unix socket that forwards like a VMM's vsock: `CONNECT 52` leads to an agent."""
    path = tmp_path / "v.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()
        children = []

        def serve() -> None:
            while True:
                try:
                    near, _ = listener.accept()
                except OSError:
                    return
                with near:
                    asked = near.recv(64)
                    if asked == b"CONNECT %d\n" % PORT:
                        near.sendall(b"OK 1073741824\n")
                        children.append(starts(program, near.fileno(), near.fileno()))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield path
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)
    for child in children:
        child.kill()
        child.wait()


def test_an_agent_answers_through_hybrid_vsock(shown: Any, hybrid: Path) -> None:
    agent = Agent(shown.through_vsock(str(hybrid), PORT, 10), "a guest behind vsock")
    try:
        agent.ping(10)
    finally:
        agent.close()


def test_a_port_that_nothing_listens_on_is_refused(shown: Any, hybrid: Path) -> None:
    with pytest.raises(ConnectionRefusedError, match="port 99"):
        shown.through_vsock(str(hybrid), 99, 10)

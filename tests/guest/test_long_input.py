"""The input of a process that answers before it has read all: neither end waits for the other."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from harness.errors import AnswerTooLong, GuestDied, GuestTimeout
from harness.guest import agent_client, shared_agent
from harness.guest.agent_client import Agent
from harness.guest.protocol import PAYLOAD_MAX, FrameKind, encode
from harness.paths import cache_directory

LONG = bytes(range(256)) * 3072
"""More than all buffers on its way hold, and less than the agent keeps for a process."""
assert PAYLOAD_MAX < len(LONG) < 1 << 20


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A channel that holds little."""
    with ExitStack() as stack:
        pair = socket.socketpair()
        for one in pair:
            stack.enter_context(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        yield pair


def test_a_process_writes_while_it_is_written_to(ends: tuple[socket.socket, socket.socket]) -> None:
    near, far = ends
    program = shared_agent.build(cache_directory())
    with subprocess.Popen([program], stdin=far.fileno(), stdout=far.fileno(), env={}) as child:
        try:
            agent = Agent(near, "a guest")
            for _ in range(5):
                assert agent.run(["/bin/cat"], stdin=LONG).stdout == LONG
            assert agent.run(["/bin/head", "-c", "5"], stdin=LONG).stdout == LONG[:5]
            agent.ping(10)
        finally:
            child.kill()


def test_a_guest_that_answers_without_end_and_reads_nothing_is_given_up(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    near, far = ends

    def answer() -> None:
        piece = encode(FrameKind.STDOUT, 1, bytes(16 << 10)) + encode(FrameKind.EXIT, 1, bytes(8))
        try:
            while True:
                far.sendall(piece)
        except OSError:
            pass

    peer = threading.Thread(target=answer)
    peer.start()
    try:
        with pytest.raises(AnswerTooLong, match="stdout of a process of a guest"):
            Agent(near, "a guest").run(["/bin/cat"], stdin=LONG, output_max=1 << 20)
    finally:
        far.shutdown(socket.SHUT_RDWR)
        peer.join()


def test_a_guest_that_neither_reads_nor_answers_is_given_up(
    ends: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    near, far = ends
    monkeypatch.setattr(agent_client, "TIMEOUT_S", 0.1)
    agent = Agent(near, "a guest")
    with pytest.raises(GuestTimeout, match="a guest does not read requests"):
        agent.run(["/bin/cat"], stdin=LONG)
    far.close()
    with pytest.raises(GuestDied):
        agent.run(["/bin/cat"], stdin=LONG)

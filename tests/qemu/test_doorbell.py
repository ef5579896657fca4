"""The doorbell of a real guest: what it masks, and how it reads what comes."""

from __future__ import annotations

import os
import time

import pytest

from harness.guest.protocol import (
    RING,
    RING_ANSWER_LENGTH,
    ring,
    ring_answer,
    ring_dated,
    sendable,
)
from harness.sandbox.protocol import Tier
from harness.sandbox.qemu.sandbox import QemuSandbox
from harness.sandbox.qemu.vmm import CONTINUE
from harness.sandbox.vm_state import VmState
from tests.qemu.conftest import Launch

NONCES = [nonce for nonce in (os.urandom(8) for _ in range(100)) if sendable(ring(nonce))]
"""Each for one message, or its beginning."""
STOPS = 300
"""More than the replies to which fill the channel of the gdb stub."""


@pytest.fixture(scope="module")
def armed(guest: QemuSandbox) -> QemuSandbox:
    """A guest that each test finds running, and leaves so."""
    return guest


def answer(guest: QemuSandbox) -> bytes:
    bell = guest.vmm.bell
    bell.settimeout(30)
    got = b""
    while len(got) < RING_ANSWER_LENGTH:
        got += bell.recv(RING_ANSWER_LENGTH - len(got))
    return got


def test_interrupts_are_masked_until_it_has_answered(armed: QemuSandbox) -> None:
    """It polls, so its kernel would tick all the time."""

    def ticks() -> int:
        report = armed.agent.run(["/bin/grep", "LOC", "/proc/interrupts"]).stdout
        return int(report.split()[1])

    before = ticks()
    time.sleep(1)
    idle = ticks() - before
    armed.arm()
    assert armed.masked
    time.sleep(1)
    armed.vmm.bell.sendall(ring(NONCES[0]))
    assert answer(armed) == ring_answer(armed.agent.key, NONCES[0])
    assert ticks() - before - idle < 80 + idle, "250 ticks a second come without a mask"


PIECES = {
    "whole": [ring(NONCES[1])],
    "single bytes": [ring(NONCES[2])[at : at + 1] for at in range(RING.size)],
    "in two": [ring(NONCES[3])[:7], ring(NONCES[3])[7:]],
    "after noise": [b"\r\nlogin: \0\0", ring(NONCES[4])],
    "after its own beginning": [ring(NONCES[5])[:9], ring(NONCES[4])[:2], ring(NONCES[5])],
    "after its magic": [ring(NONCES[6])[:2] + ring(NONCES[6])],
    "after more noise than the UART holds": [b"noise" * 40, ring(NONCES[7])],
}


@pytest.mark.parametrize("pieces", PIECES.values(), ids=list(PIECES))
@pytest.mark.parametrize("stopped", [False, True])
def test_a_message_is_found_however_it_comes(
    armed: QemuSandbox, pieces: list[bytes], stopped: bool
) -> None:
    armed.arm()
    if stopped:  # all of it waits for the guest
        armed.stop()
        for piece in pieces:
            armed.vmm.bell.sendall(piece)
        armed.vmm.control.send(CONTINUE)
        armed._state = VmState.RUNNING
    else:
        for piece in pieces:
            armed.vmm.bell.sendall(piece)
            time.sleep(0.02)
    wanted = pieces[-1] if len(pieces[-1]) >= RING.size else b"".join(pieces)
    assert answer(armed) == ring_answer(armed.agent.key, wanted[-8:])
    armed.agent.ping()


def test_a_dated_message_sets_the_clock(armed: QemuSandbox) -> None:
    wall_ns = time.time_ns() - 3600 * 10**9
    while not sendable(message := ring_dated(os.urandom(4), wall_ns)):
        wall_ns += 1
    for piece in ([message], [message[:12], message[12:]], [message[:3], message[3:]]):
        armed.arm()
        for part in piece:
            armed.vmm.bell.sendall(part)
            time.sleep(0.02)
        assert answer(armed) == ring_answer(armed.agent.key, message[2:])
        set_to = armed.agent.ping().wall_ns
        assert 0 <= set_to - wall_ns < 60 * 10**9
        armed.agent.set_wall_clock()


def test_it_can_be_stopped_any_number_of_times(launch: Launch) -> None:
    sandbox = launch(Tier.DURABLE_PREWARM_POOL)
    for _ in range(STOPS):
        sandbox.awaken(30)
        sandbox.arm()
        sandbox.stop()
    sandbox.awaken(30)

"""The agent over a plain serial line, which the guest's kernel writes its messages on as well."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from harness.guest.agent_client import Agent
from harness.host.run import Run
from harness.sandbox.protocol import Tier
from harness.sandbox.qemu import QemuSubstrate, machine
from tests.guests import AWAKE_S, launched


@pytest.fixture(scope="module")
def serial(run: Run) -> Iterator[Agent]:
    """The agent of a guest whose kernel talks on the agent's line."""
    with pytest.MonkeyPatch.context() as patch:
        loud = machine.KERNEL_ARGUMENTS.replace("quiet", "console=ttyS0 loglevel=7")
        assert loud != machine.KERNEL_ARGUMENTS
        patch.setattr(machine, "KERNEL_ARGUMENTS", loud)
        with launched(run, Tier.FULL, substrate=QemuSubstrate(line="serial")) as guest:
            guest.awaken(AWAKE_S)
            yield guest.agent


def test_a_guest_without_kernel_messages_answers(run: Run) -> None:
    with launched(run, Tier.FULL, substrate=QemuSubstrate(line="serial")) as guest:
        guest.awaken(AWAKE_S)
        assert guest.agent.run(("echo", "here")).stdout == b"here\n"


def test_it_answers_a_nonce_and_tells_who_it_is(serial: Agent) -> None:
    serial.ping()
    assert b"coppice.line=ttyS0" in serial.run(("cat", "/proc/cmdline")).stdout
    assert serial.hello()["protocol"] == "1"


def test_kernel_messages_between_frames_do_no_harm(serial: Agent) -> None:
    for number in range(20):
        message = f"echo '<1>coppice: message {number}' > /dev/kmsg; echo {number}"
        assert serial.run(("sh", "-c", message)).stdout == f"{number}\n".encode()
        serial.ping()


def test_bytes_of_every_value_pass_both_ways(serial: Agent) -> None:
    data = bytes(range(256)) * 64 + os.urandom(16 * 1024)
    assert serial.run(("cat",), stdin=data).stdout == data
    serial.write_file("/tmp/file", data)
    assert serial.read_file("/tmp/file") == data

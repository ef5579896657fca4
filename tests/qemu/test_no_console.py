"""A kernel without virtual terminals: PID 1 has no console, and the doorbell's UART is its own."""

from __future__ import annotations

import pytest

from harness.sandbox.protocol import Tier
from harness.sandbox.qemu import kernel_arguments
from tests.qemu.conftest import Launch


def test_a_guest_without_a_console(launch: Launch, monkeypatch: pytest.MonkeyPatch) -> None:
    """No console has this name; with the usual one the kernel would take its virtual terminal."""
    words = [word for word in kernel_arguments.ALWAYS if not word.startswith("console=")]
    monkeypatch.setattr(kernel_arguments, "ALWAYS", dict.fromkeys([*words, "console=nosuch"], ""))
    sandbox = launch(Tier.FULL)
    sandbox.awaken(120)
    assert sandbox.first_exec("x").stdout == b"x\n"
    assert b"console" not in sandbox.agent.run(["/bin/ls", "-l", "/proc/1/fd"]).stdout
    assert sandbox.agent.read_file("/sys/class/tty/console/active").strip() == b""
    sandbox.arm()
    sandbox.stop()
    sandbox.awaken(30)
    sandbox.agent.ping()

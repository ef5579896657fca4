"""The agent over a UART, for VMMs without virtio-serial."""

from __future__ import annotations

from harness.host.identity import allocate
from harness.host.run import Run
from harness.paths import cache_directory
from harness.sandbox.protocol import Tier
from harness.sandbox.qemu import QemuSubstrate


def test_the_agent_over_a_uart(run: Run, accelerator: str) -> None:
    substrate = QemuSubstrate(line="serial")
    template = substrate.prepare(run, cache_directory(), Tier.FULL)
    sandbox = substrate.launch(run, template, Tier.FULL, allocate(run.leases, run.id))
    try:
        sandbox.awaken(60)
        assert sandbox.first_exec("over the wire").stdout == b"over the wire\n"
        data = bytes(range(256)) * 64
        sandbox.agent.write_file("/tmp/x", data)
        assert sandbox.agent.read_file("/tmp/x") == data
    finally:
        sandbox.destroy()

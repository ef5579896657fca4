"""What an empty VMM is told before it loads a guest's device state."""

from __future__ import annotations

from harness.sandbox.qemu.qmp import Qmp

IGNORE_SHARED = "x-ignore-shared"
"""Memory stays in its file: the state is that of devices alone."""


def report_progress(qmp: Qmp, *capabilities: str) -> None:
    """Have a VMM report with events how far it is, and use these other capabilities."""
    states = [{"capability": name, "state": True} for name in (*capabilities, "events")]
    qmp.execute("migrate-set-capabilities", capabilities=states)


def announce_nothing(qmp: Qmp) -> None:
    """Keep a VMM that loads a guest from sending packets for it, five in two seconds.

    QEMU supposes that a guest has moved to another host, and tells the switches. Here its tap is
    new to the bridge. Only for a `Shape` with a `quiet_nic`: another NIC's timer is gone then, and
    its next reset ends the VMM (QEMU 7.2).
    """
    qmp.execute("migrate-set-parameters", **{"announce-rounds": 0})

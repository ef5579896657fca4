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
    """Keep a VMM that has loaded a guest from having it announce its NIC.

    QEMU supposes that a guest has moved to another host, and has it tell the switches: five times
    in the first two seconds, also while it is stopped. Here nothing has to learn of it: its tap is
    new to the bridge. Without this a tenth of a first process is that work.
    """
    qmp.execute("migrate-set-parameters", **{"announce-rounds": 0})

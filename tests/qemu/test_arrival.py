"""What a restored guest has done before its caller's time, and what it does not do then."""

from __future__ import annotations

import time

from harness.sandbox.protocol import Tier
from harness.sandbox.qemu.sandbox import QemuSandbox
from tests.qemu.conftest import Launch

NIC = "/sys/class/net/eth0"
LAST_ANNOUNCEMENT_S = 1.5
"""QEMU's own announcements are over by then."""


def _number(guest: QemuSandbox, path: str) -> int:
    return int(guest.agent.read_file(path).decode(), 0)


def test_its_nic_is_up_and_its_random_generator_seeded(launch: Launch) -> None:
    guest = launch(Tier.DURABLE_POOL)
    guest.awaken(120)
    assert _number(guest, f"{NIC}/flags") & 1
    assert guest.agent.hello()["address"] == ""
    assert _number(guest, "/proc/sys/kernel/random/entropy_avail") >= 256


def test_it_announces_nothing(launch: Launch) -> None:
    guest = launch(Tier.DURABLE_POOL)
    assert guest.qmp.execute("query-migrate-parameters")["announce-rounds"] == 0
    guest.awaken(120)
    guest.adopt_identity()
    time.sleep(LAST_ANNOUNCEMENT_S)
    assert guest.agent.hello()["address"] == str(guest.identity.address)
    assert _number(guest, f"{NIC}/statistics/tx_packets") == 0

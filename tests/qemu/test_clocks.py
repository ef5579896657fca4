"""A guest's clocks over a hold and a restore: the monotonic clock stands still while it is stopped,
the wall clock is right, and timers take as long as they were set for."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from harness.sandbox.protocol import Tier
from harness.sandbox.qemu.sandbox import QemuSandbox
from harness.sandbox.qemu.substrate import QemuTemplate
from tests.qemu.conftest import Launch

S = 10**9
HOLD_S = 4.0
SOURCE = "/sys/devices/system/clocksource/clocksource0/current_clocksource"


def check_source(guest: QemuSandbox, template: QemuTemplate) -> None:
    pinned = "tsc" if template.accelerator == "tcg" else "kvm-clock"
    found = guest.agent.read_file(SOURCE).decode().strip()
    if found != pinned and Path(os.environ.get("COPPICE_KERNEL", "")).is_file():
        pytest.skip(f"the kernel that COPPICE_KERNEL names has no {pinned}, and uses {found}")
    assert found == pinned


def check_wall_clock_and_timers(guest: QemuSandbox) -> None:
    asked = time.time_ns()
    inside = guest.agent.ping().wall_ns
    assert asked - S < inside < time.time_ns() + S
    begun, before = time.monotonic(), guest.agent.ping().monotonic_ns
    assert guest.agent.run(["/bin/sleep", "0.5"]).code == 0
    took, inside_took = time.monotonic() - begun, guest.agent.ping().monotonic_ns - before
    assert 0.5 <= took < 10
    assert 0.45 * S <= inside_took <= (took + 1) * S


def test_a_hold(launch: Launch, template: QemuTemplate) -> None:
    guest = launch(Tier.DURABLE_PREWARM_POOL)
    guest.resume()
    check_source(guest, template)
    begun, before = time.monotonic(), guest.agent.ping().monotonic_ns
    guest.arm()
    guest.stop()
    ran = time.monotonic() - begun
    time.sleep(HOLD_S)
    woken = time.monotonic()
    guest.awaken(30, dated=True)
    passed = guest.agent.ping().monotonic_ns - before
    ran += time.monotonic() - woken
    assert 0 < passed <= (ran + 0.5) * S, "the monotonic clock ran during the hold"
    check_wall_clock_and_timers(guest)


def test_a_restore_from_an_old_checkpoint(launch: Launch, template: QemuTemplate) -> None:
    """However old the checkpoint, its monotonic clock goes on from where it was."""
    readings = []
    for _ in range(2):
        guest = launch(Tier.DURABLE_POOL)
        begun = time.monotonic()
        guest.awaken(30)
        check_source(guest, template)
        reading = guest.agent.ping().monotonic_ns
        readings.append((reading, time.monotonic() - begun))
        guest.first_exec("x")
        check_wall_clock_and_timers(guest)
        if len(readings) == 1:
            time.sleep(HOLD_S)
    (first, _), (second, second_ran) = readings
    assert abs(second - first) < (HOLD_S / 2 + second_ran) * S
    assert template.checkpoint
    sealed = template.checkpoint.memory.stat().st_mtime
    assert time.time() - sealed > HOLD_S

"""What all tests share: processes that they start can be interrupted."""

from __future__ import annotations

from harness.rig.plugin import interruptible


def pytest_configure() -> None:
    interruptible()

"""The named moments of a measurement, and the pytest hook that announces them.

A plugin that implements `pytest_coppice_stage` hears of each moment as it comes, and the rig goes
on when it returns. Tests use it to act at a moment (tests/stages.py) instead of guessing when that
is. No clock of a rig runs while a moment is announced.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from harness.host.run import Run

BEGUN = "begun"
"""Set-up is over; the first sample is about to be taken."""
ANSWERED = "answered"
"""Sandboxes were started, have been timed, and are still alive."""
AT_REST = "at-rest"
"""A fleet is up and the host is at rest; what the fleet takes is about to be read."""
ENDED = "ended"
"""The last sample is taken; nothing is stored yet."""
WRITTEN = "written"
"""The record is stored."""


@pytest.hookspec
def pytest_coppice_stage(stage: str, run: Run) -> None:
    """A rig of this run has come to a stage; it goes on when all implementations have returned."""

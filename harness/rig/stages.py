"""The stages of a measurement, and the pytest hook that announces them.

A rig calls `pytest_coppice_stage` at each stage and continues when all implementations have
returned. Tests use it to act at a certain stage (tests/stages.py) without guessing from a clock. No
clock of a rig runs during the call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from harness.host.run import Run

BEGUN = "begun"
"""Set-up is done; the first sample is about to be taken."""
ANSWERED = "answered"
"""Sandboxes were started, have been timed, and are still alive."""
AT_REST = "at-rest"
"""A fleet is up and the host is at rest; its memory is about to be read."""
ENDED = "ended"
"""The last sample is taken; nothing is stored yet."""
WRITTEN = "written"
"""The record is stored."""


@pytest.hookspec
def pytest_coppice_stage(stage: str, run: Run) -> None:
    """A rig of this run has reached a stage; it continues when all implementations return."""

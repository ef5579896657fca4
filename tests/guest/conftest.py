"""One booted guest for the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.guest.agent_client import Agent
from harness.host.run import Run
from harness.sandbox.protocol import Tier
from harness.sandbox.qemu.sandbox import QemuSandbox
from tests.guests import AWAKE_S, launched


@pytest.fixture(scope="module")
def sandbox(run: Run) -> Iterator[QemuSandbox]:
    with launched(run, Tier.FULL) as guest:
        guest.awaken(AWAKE_S)
        yield guest


@pytest.fixture
def agent(sandbox: QemuSandbox) -> Agent:
    return sandbox.agent

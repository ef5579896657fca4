"""Real microVMs for tests: prepared once, launched on demand, always destroyed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from harness.host.identity import allocate
from harness.host.run import Run
from harness.paths import cache_directory
from harness.sandbox.protocol import Tier
from harness.sandbox.qemu import QemuSubstrate
from harness.sandbox.qemu.sandbox import QemuSandbox
from harness.sandbox.qemu.substrate import QemuTemplate

Launch = Callable[[Tier], QemuSandbox]


@pytest.fixture(scope="session")
def substrate() -> QemuSubstrate:
    return QemuSubstrate()


@pytest.fixture(scope="session")
def template(run: Run, substrate: QemuSubstrate, accelerator: str) -> QemuTemplate:
    """A template with a checkpoint, for every tier, under each accelerator."""
    return substrate.prepare(run, cache_directory(), Tier.DURABLE_POOL)


@pytest.fixture
def launch(run: Run, substrate: QemuSubstrate, template: QemuTemplate) -> Iterator[Launch]:
    with ExitStack() as stack:

        def one(tier: Tier) -> QemuSandbox:
            sandbox = substrate.launch(run, template, tier, allocate(run.leases, run.id))
            stack.callback(sandbox.destroy)
            return sandbox

        yield one


@pytest.fixture(scope="module")
def guest(run: Run, substrate: QemuSubstrate, template: QemuTemplate) -> Iterator[QemuSandbox]:
    """A running guest with its identity, for the tests of a module."""
    tier = Tier.DURABLE_PREWARM_POOL
    sandbox = substrate.launch(run, template, tier, allocate(run.leases, run.id))
    try:
        sandbox.resume()
        yield sandbox
    finally:
        sandbox.destroy()

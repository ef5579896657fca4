"""Gateways for tests: one with microVMs for all of them, and one with the noop fleet."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.errors import Unsupported
from harness.gateway.gateway_process import GatewayProcess, new_key, running_gateway
from harness.gateway.requirements import requirements
from harness.gateway.sandboxes.store import Limits
from harness.host.leftovers import reclaim
from harness.host.run import Run
from tests.gateway.client import Box


@pytest.fixture(scope="package")
def possible() -> None:
    """What the gateway requires of the host."""
    for requirement in requirements():
        if not requirement.satisfied:
            raise Unsupported(
                f"the gateway needs {requirement.what}; {requirement.detail}",
                hint=requirement.remedy,
            )


@contextlib.contextmanager
def own_runtime() -> Iterator[Path]:
    """A runtime directory of which no other run on this machine knows. Users inside containers
    reach it. Nothing may be left in it."""
    runtime = Path(tempfile.mkdtemp(prefix="coppice-", dir="/run" if os.geteuid() == 0 else None))
    runtime.chmod(0o755)
    try:
        yield runtime
        assert {entry.name for entry in runtime.iterdir()} <= {"leases"}
    finally:
        reclaim(runtime, waiting=True)
        shutil.rmtree(runtime)


@pytest.fixture
def runtime() -> Iterator[Path]:
    with own_runtime() as directory:
        yield directory


@pytest.fixture(scope="package")
def served(run: Run, possible: None, accelerator: str) -> Iterator[GatewayProcess]:
    """A gateway with microVMs and small pools, under each accelerator."""
    with running_gateway(run, "--pool", "3", "--domain", "sandboxes.test") as process:
        process.wait_for_pool("code-interpreter-v1", 1)
        yield process


@pytest.fixture(scope="package")
def shared_nothing(run: Run) -> Iterator[GatewayProcess]:
    """A gateway with the noop fleet."""
    pytest.importorskip("uvicorn")
    with running_gateway(run, "--substrate", "noop") as process:
        yield process


@pytest.fixture
def nothing(shared_nothing: GatewayProcess) -> GatewayProcess:
    """The same gateway with a new key, which may have 30 sandboxes."""
    key = new_key(shared_nothing.directory, Limits(sandboxes=30, rate=1e6, burst=10000))
    return dataclasses.replace(shared_nothing, key=key)


@pytest.fixture(scope="module")
def box(served: GatewayProcess) -> Iterator[Box]:
    """A sandbox for the tests of a module."""
    created = Box.create(served)
    yield created
    created.kill()

"""A real gateway for tests: over microVMs once for all of them, over nothing where that will do."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest

from harness.errors import Unsupported
from harness.gateway.gateway_process import Running, gateway, new_key
from harness.gateway.requirements import requirements
from harness.gateway.sandboxes.store import Limits
from harness.host.run import Run
from tests.gateway.client import Box


@pytest.fixture(scope="package")
def possible() -> None:
    for need in requirements():
        if not need.satisfied:
            raise Unsupported(f"the gateway needs {need.what}; {need.detail}", hint=need.remedy)


@pytest.fixture(scope="package")
def served(run: Run, possible: None) -> Iterator[Running]:
    """A gateway over microVMs, with small pools."""
    with gateway(run, "--pool", "3", "--domain", "sandboxes.test") as one:
        one.wait_for_pool("code-interpreter-v1", 1)
        yield one


@pytest.fixture(scope="package")
def shared_nothing(run: Run) -> Iterator[Running]:
    """A gateway over the noop fleet."""
    pytest.importorskip("uvicorn")
    with gateway(run, "--substrate", "noop") as one:
        yield one


@pytest.fixture
def nothing(shared_nothing: Running) -> Running:
    """The same under a key of its own, which may have 30 sandboxes."""
    key = new_key(shared_nothing.directory, Limits(sandboxes=30, rate=1e6, burst=10000))
    return dataclasses.replace(shared_nothing, key=key)


@pytest.fixture(scope="module")
def box(served: Running) -> Iterator[Box]:
    """One sandbox for the tests of a module."""
    made = Box.create(served)
    yield made
    made.kill()

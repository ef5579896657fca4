"""A real cubenet with endpoints for tests. Skipped on hosts that cannot have one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from harness.errors import Unsupported
from harness.host.run import Run
from harness.network.cubenet import Cubenet, open_cubenet
from harness.network.requirements import requirements
from harness.procedures.namespace_endpoint import Endpoint, endpoint


@pytest.fixture(scope="session", autouse=True)
def possible() -> None:
    for need in requirements():
        if not need.satisfied:
            raise Unsupported(f"cubenet needs {need.what}; {need.detail}", hint=need.remedy)


@pytest.fixture(scope="module")
def net(run: Run) -> Iterator[Cubenet]:
    with open_cubenet(run) as opened:
        yield opened


Three = tuple[Endpoint, Endpoint, Endpoint]


@pytest.fixture
def three(run: Run, net: Cubenet) -> Iterator[Three]:
    """Three new endpoints with nothing allowed."""
    with _three(run, net) as found:
        yield found


@pytest.fixture(scope="module")
def same_three(run: Run, net: Cubenet) -> Iterator[Three]:
    """Three endpoints for all tests of a module."""
    with _three(run, net) as found:
        yield found


@contextmanager
def _three(run: Run, net: Cubenet) -> Iterator[Three]:
    with ExitStack() as stack:
        a, b, c = (stack.enter_context(endpoint(run, net)) for _ in range(3))
        yield a, b, c

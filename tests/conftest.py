"""What all tests share: processes that they start can be interrupted, and keep no evidence where
the user's lies."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.host.run import Run
from harness.interrupts import raise_from_now_on
from tests.accelerators import BOTH, guests_under


def pytest_configure() -> None:
    raise_from_now_on()


@pytest.fixture(scope="session", autouse=True)
def failures_of_children(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests make rigs fail on purpose: what those keep goes with the tests. What this session
    itself keeps does not, as its plugin has read the variable before."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COPPICE_FAILURES", str(tmp_path_factory.mktemp("failures")))
        yield


@pytest.fixture(scope="session", params=BOTH)
def accelerator(request: pytest.FixtureRequest, run: Run) -> Iterator[str]:
    """What runs the guests of a test, by its name."""
    name: str = request.param
    with guests_under(name, run):
        yield name

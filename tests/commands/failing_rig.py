"""A pytest plugin for tests: every rig fails where it would store its record, by the error that the
variable TEST_FAILS_WITH names; without one by an assertion."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.errors import NotEnoughMemory
from harness.rig import recorder

ERRORS = {
    "": AssertionError("the rig fails"),
    "memory": NotEnoughMemory("1000 sandboxes do not fit", hint="request at most 3"),
    "EMFILE": OSError(24, "Too many open files"),
}


def _fail(*_: object) -> Path:
    raise ERRORS[os.environ.get("TEST_FAILS_WITH", "")]


def pytest_configure() -> None:
    patch = pytest.MonkeyPatch()
    patch.setattr(recorder, "write", _fail)

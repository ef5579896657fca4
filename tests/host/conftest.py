"""Gives every test its own runtime directory and cache, and pools something to launch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.host.fake_launcher import FakeLauncher


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The runtime directory of this test; its processes inherit it."""
    directory = tmp_path / "runtime"
    monkeypatch.setenv("COPPICE_RUNTIME", str(directory))
    return directory


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, for tests that build no guest image."""
    directory = tmp_path / "cache"
    monkeypatch.setenv("COPPICE_CACHE", str(directory))
    return directory


@pytest.fixture
def launcher() -> Iterator[FakeLauncher]:
    made = FakeLauncher()
    yield made
    made.gate.set()

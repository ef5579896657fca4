"""A runtime directory and a cache of its own for every test, and a look at what processes carry."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where runs of this test have their directories; its processes inherit it."""
    directory = tmp_path / "runtime"
    monkeypatch.setenv("COPPICE_RUNTIME", str(directory))
    return directory


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, for tests that build nothing of a guest's."""
    directory = tmp_path / "cache"
    monkeypatch.setenv("COPPICE_CACHE", str(directory))
    return directory

"""A runtime folder and a cache of its own for every test, and a look at what processes carry."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where runs of this test have their folders; its processes inherit it."""
    folder = tmp_path / "runtime"
    monkeypatch.setenv("COPPICE_RUNTIME", str(folder))
    return folder


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, for tests that build nothing of a guest's."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("COPPICE_CACHE", str(folder))
    return folder

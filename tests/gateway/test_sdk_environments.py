"""Environments of SDKs in the cache: built once, sealed, and built again when they are damaged."""

from __future__ import annotations

import venv
from pathlib import Path

import pytest

from harness.gateway.compat import environments
from harness.gateway.compat.environments import javascript_sdk, newest


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was installed; the installers themselves need a package index."""
    calls: list[str] = []

    def create(own: Path, **_: object) -> None:
        (own / "bin").mkdir(parents=True)
        (own / "bin/python").write_text("an interpreter", encoding="utf-8")
        (own / "lib").mkdir()
        (own / "lib/e2b.py").write_text("an SDK", encoding="utf-8")

    monkeypatch.setattr(venv, "create", create)
    monkeypatch.setattr(environments, "_install", lambda what, *_: calls.append(what))
    monkeypatch.setattr(environments, "run", lambda *_: b"")
    monkeypatch.setattr(environments, "need", lambda program: program)
    return calls


@pytest.mark.parametrize("sdk", [newest(), javascript_sdk()], ids=["python", "javascript"])
def test_a_damaged_environment_is_built_again(
    sdk: environments.Sdk, built: list[str], tmp_path: Path
) -> None:
    command = sdk.command(tmp_path)
    assert sdk.command(tmp_path) == command and len(built) == 1
    file = next(path for path in tmp_path.rglob("*") if path.name in ("e2b.py", "probe.mjs"))
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + b"?")
    assert sdk.command(tmp_path) == command and len(built) == 2
    assert file.read_bytes() == whole


def test_an_environment_without_a_seal_is_built_again(built: list[str], tmp_path: Path) -> None:
    (seal,) = newest().python(tmp_path).parents[2].glob(".seal.json")
    seal.unlink()
    newest().python(tmp_path)
    assert len(built) == 2

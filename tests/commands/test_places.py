"""Directories that do not suit: refused in one line, before anything is measured."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from harness.cli import main
from tests.commands.plugins import coppice_with

RUN = ("run", "cold-start", "--substrate", "noop")


def test_records_cannot_go_into_a_file(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("a file")
    done = coppice_with(tmp_path / "none", *RUN, cwd=tmp_path)
    assert done.returncode == 73 and done.stdout == ""
    assert "records cannot go to results" in done.stderr and "--results" in done.stderr


def test_records_cannot_go_where_nothing_may_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "access", lambda place, mode: False)  # root may write everywhere
    assert main([*RUN, "--results", str(tmp_path / "a" / "b")]) == 73
    assert f"{tmp_path} cannot be written" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "argv",
    [
        ["site", "--results", ".", "--out", "file/_site"],
        ["gateway", "keys", "--state", "file/state"],
        ["export", "--ro-crate", "--results", "crate"],
    ],
)
def test_what_cannot_be_written_is_named_in_one_line(argv: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    (tmp_path / "crate" / "ro-crate-metadata.json").mkdir(parents=True)
    done = coppice_with(tmp_path / "none", *argv, cwd=tmp_path)
    assert done.returncode == 73, done.stderr
    assert done.stderr.startswith("coppice: ") and "Traceback" not in done.stderr
    assert not [path for path in tmp_path.rglob("*") if "half" in path.name or "._" in path.name]


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="the substrate needs root")
def test_a_cache_that_cannot_be_written_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("a file")
    monkeypatch.setenv("COPPICE_CACHE", str(tmp_path / "file" / "cache"))
    argv = ("run", "cold-start", "--substrate", "process", "--tier", "full")
    done = coppice_with(tmp_path / "none", *argv, cwd=tmp_path)
    assert done.returncode == 73, done.stdout + done.stderr
    assert "COPPICE_CACHE" in done.stdout and "Traceback" not in done.stdout


def test_modules_and_settings_of_the_directory_are_not_read(tmp_path: Path) -> None:
    for name in ("harness", "json", "pytest", "conftest"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('of the directory')")
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --nonsense\n")
    before = set(tmp_path.iterdir())
    done = coppice_with(tmp_path / "none", *RUN, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (results,) = set(tmp_path.iterdir()) - before
    assert results.name == "results", "and a run leaves nothing else where the user is"
    assert [json.loads(path.read_text()) for path in results.rglob("*.run.json")]

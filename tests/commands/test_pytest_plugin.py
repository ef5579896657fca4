"""The plugin in another project's environment: it changes neither their options nor their tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from harness import paths
from harness.measure import record
from harness.rig import plugin

OPTIONS = ("profile", "results", "set", "substrate", "tier", "concurrency")
CONFTEST = f"""
def pytest_addoption(parser):
    for name in {OPTIONS}:
        parser.addoption(f"--{{name}}", default="theirs")
"""
TEST = f"""
import pytest

@pytest.mark.parametrize("case", ["one"])
def test_options(case, request):
    found = [request.config.getoption(f"--{{name}}") for name in {OPTIONS}]
    assert found == ["mine", *["theirs"] * {len(OPTIONS) - 1}]
"""


def test_a_project_has_options_of_the_same_names(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST, encoding="utf-8")
    (tmp_path / "test_theirs.py").write_text(TEST, encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        plugin.__name__,
        "-p",
        "no:cacheprovider",
    ]
    done = subprocess.run(
        [*command, "-p", plugin.__name__, "--profile=mine"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def test_pytest_alone_says_what_it_recorded_where_and_whether_it_is_suspect(
    tmp_path: Path,
) -> None:
    command = [sys.executable, "-m", "pytest", "-q", str(paths.RIGS / "test_cold_start.py")]
    command += ["-c", str(paths.PYTEST_INI), "--rootdir", str(paths.DATA)]
    command += ["--coppice-substrate=noop", "--coppice-concurrency=1", "--coppice-profile=smoke"]
    done = subprocess.run(
        [*command, f"--coppice-results={tmp_path}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (stored,) = record.find(tmp_path)
    judged = record.load(stored).validity
    assert f"{stored.relative_to(tmp_path)}  {judged.status}" in done.stdout.splitlines()
    for reason in judged.reasons:
        assert f"  {judged.status}: {reason}" in done.stdout.splitlines()

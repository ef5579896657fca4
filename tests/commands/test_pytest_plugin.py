"""The plugin in another project's environment: it changes neither their options nor their tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_theirs.py").write_text(TEST)
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
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout

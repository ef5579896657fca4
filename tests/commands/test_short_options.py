"""In a checkout, pytest takes the plugin's options without their prefix too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness.measure.record import find, load
from tests.commands.tools import ROOT


@pytest.mark.parametrize("prefix", ["", "coppice-"])
def test_both_names_of_an_option_mean_the_same(prefix: str, tmp_path: Path) -> None:
    options = [f"--{prefix}substrate=noop", f"--{prefix}profile=smoke", f"--{prefix}concurrency=1"]
    argv = [sys.executable, "-m", "pytest", "rigs/test_cold_start.py", "-q", *options]
    done = subprocess.run(
        [*argv, f"--{prefix}results={tmp_path}", "-p", "no:cacheprovider"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    records = [load(path) for path in find(tmp_path)]
    assert {record.profile for record in records} == {"smoke"}
    concurrencies = {one.dimensions["concurrency"] for record in records for one in record.series}
    assert concurrencies == {1}

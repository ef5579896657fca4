"""The storm of kills sees what a killed command leaves, marked or not."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from harness.host.leftovers import RUNTIME
from harness.host.locks import locking
from harness.host.run import VARIABLE
from harness.procedures import kill_storm
from harness.procedures.host_objects import TEMPORARY, Scope, objects
from harness.procedures.kill_storm import Storm
from tests.host.processes import eventually

LEAVES = """
import os, subprocess, sys, time
from pathlib import Path
if sys.argv[1:] == ["clean"]:
    sys.exit()
Path(os.environ["TMPDIR"], "forgotten").touch()
marked = {**os.environ, "COPPICE_RUN": os.environ["COPPICE_RUNTIME"] + "/x"}
subprocess.Popen(["sleep", "600"], env=marked)
Path(os.environ["COPPICE_STATE"]).touch()
time.sleep(600)
"""


@pytest.fixture
def scope(tmp_path: Path) -> Iterator[Scope]:
    nested = tmp_path / "host"
    (nested / RUNTIME).mkdir(parents=True)
    (nested / TEMPORARY).mkdir()
    yield Scope(nested, tmp_path / "cache", (tmp_path / "saved",), whole_host=False)
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(VARIABLE, "").startswith(f"{nested}/"):
                process.kill()


def test_files_that_a_run_leaves_are_seen(scope: Scope, tmp_path: Path) -> None:
    before = objects(scope)
    left = [
        scope.nested / RUNTIME / "20260102T030405Z-0123abcd",
        scope.nested / RUNTIME / "leases" / "2",
        scope.nested / TEMPORARY / "anything",
        scope.nested / "results" / "host" / ".half-written-x",
        tmp_path / "saved" / ".building-x",
        tmp_path / "cache" / "kernels" / ".building-x",
    ]
    for path in left:
        path.mkdir(parents=True)
    (scope.nested / "results" / "record.json").touch()  # what a run is there for
    in_use = tmp_path / "cache" / "kernels" / ".building-y"
    in_use.mkdir()
    with locking(in_use):
        assert objects(scope) - before == {f"file {path}" for path in left}


def test_processes_are_seen_by_their_environment_and_argv(scope: Scope) -> None:
    marked = {**os.environ, VARIABLE: f"{scope.nested}/{RUNTIME}/x"}
    unmarked = [sys.executable, "-c", "input()", f"{scope.nested}/file"]
    with (
        subprocess.Popen(["sleep", "600"], env=marked) as by_environment,
        subprocess.Popen(unmarked, stdin=subprocess.PIPE) as by_argv,
    ):
        try:
            expected = {f"process {by_environment.pid} sleep", f"process {by_argv.pid} python"}
            eventually(
                lambda: (
                    {name.replace("python3", "python") for name in _processes(scope)} >= expected
                )
            )
        finally:
            by_environment.kill()
            by_argv.kill()
    assert _processes(scope) == set()


def _processes(scope: Scope) -> set[str]:
    return {name for name in objects(scope) if name.startswith("process ")}


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_mounts_are_seen(scope: Scope) -> None:
    point = scope.nested / RUNTIME
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", point], check=True)
    try:
        assert f"mount {point}" in objects(scope)
    finally:
        subprocess.run(["umount", point], check=True)


def test_what_clean_does_not_remove_is_reported(
    scope: Scope, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "leaves.py"
    program.write_text(LEAVES, encoding="utf-8")
    monkeypatch.setattr(kill_storm, "COPPICE", (sys.executable, str(program)))
    monkeypatch.setattr(kill_storm, "GRACE_S", 0.5)
    monkeypatch.setattr(kill_storm, "ORPHAN_S", 0.0)
    storm = Storm(scope, random.Random(1))
    monkeypatch.setattr(storm.rng, "uniform", lambda low, high: 3.0)
    outcome = storm.kill("leaves", ["run", "anything"])
    assert outcome and outcome.moment_s == 3.0
    assert [left for left in outcome.left if left.endswith(" sleep")], outcome.left
    assert f"file {scope.nested / TEMPORARY / 'forgotten'}" in outcome.left


def test_a_victim_that_ends_by_itself_is_killed_earlier_the_next_time(
    scope: Scope, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kill_storm, "COPPICE", (sys.executable, "-c", ""))
    storm = Storm(scope, random.Random(1))
    monkeypatch.setattr(storm.rng, "uniform", lambda low, high: high)
    assert storm.kill("brief", []) is None
    assert storm.windows["brief"] < kill_storm.WINDOW_S

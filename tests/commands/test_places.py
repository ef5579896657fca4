"""Directories that do not suit: refused in one line, before anything is measured."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.cli import main
from harness.measure import machine
from harness.measure.record import find, load
from tests.commands.plugins import coppice_with
from tests.host.processes import ROOT, coppice

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


@contextlib.contextmanager
def mounted(tmp_path: Path, options: str) -> Iterator[Path]:
    """A small file system of its own."""
    place = tmp_path / "mounted"
    place.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


RESULTS = ROOT / "results"
RECORD = min(find(RESULTS))
RUN = ("run", "cold-start", "--substrate", "noop")


def test_records_cannot_go_into_a_file(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("a file", encoding="utf-8")
    done = coppice_with(tmp_path / "none", *RUN, cwd=tmp_path)
    assert done.returncode == 73 and done.stdout == ""
    assert "records cannot go to results" in done.stderr and "--results" in done.stderr


@pytest.mark.parametrize("kind", ["link to nothing", "below a file", "no directories there"])
def test_records_cannot_go_where_nothing_may_be_written(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    if kind == "link to nothing":
        results.symlink_to(tmp_path / "nothing")
    elif kind == "below a file":
        (tmp_path / "file").write_text("a file", encoding="utf-8")
        results = tmp_path / "file" / "results"
    else:
        results = Path("/proc/results")
    assert main([*RUN, "--results", str(results)]) == 73
    shown = capsys.readouterr()
    assert f"coppice: records cannot go to {results}" in shown.err and not shown.out


@needs_root
def test_a_read_only_file_system_is_refused_and_a_full_one_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for options, code in (("ro", 73), ("nr_inodes=1", 74)):
        with mounted(tmp_path, options) as results:
            assert main([*RUN, "--results", str(results)]) == code
        assert f"coppice: records cannot go to {results}" in capsys.readouterr().err


def pytest_on_rigs(*arguments: str) -> subprocess.CompletedProcess[str]:
    argv = [
        sys.executable,
        "-m",
        "pytest",
        "rigs",
        "-p",
        "no:cacheprovider",
        "-q",
        "-k",
        "cold_start and noop",
    ]
    return subprocess.run(
        [*argv, *arguments], cwd=ROOT, capture_output=True, text=True, encoding="utf-8"
    )


def test_pytest_tries_both_places_before_it_measures(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("", encoding="utf-8")
    done = pytest_on_rigs(f"--coppice-results={file}")
    assert done.returncode == 73 and "records cannot go to" in done.stdout
    results = f"--coppice-results={tmp_path / 'results'}"
    done = pytest_on_rigs(results, f"--benchmark-json={file / 'b.json'}")
    assert done.returncode == 73 and str(file) in done.stdout
    assert not list(find(tmp_path / "results"))


def test_the_directory_of_a_benchmark_file_is_made(tmp_path: Path) -> None:
    out = tmp_path / "a" / "b.json"
    done = pytest_on_rigs(f"--coppice-results={tmp_path / 'results'}", f"--benchmark-json={out}")
    assert done.returncode == 0, done.stdout
    assert json.loads(out.read_text(encoding="utf-8"))["benchmarks"]


@needs_root
def test_samples_are_kept_elsewhere_when_the_disk_is_full_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COPPICE_STATE", str(tmp_path / "state"))
    with mounted(tmp_path, "size=4k") as results:
        (results / machine.describe(None).id).mkdir()
        done = coppice(*RUN, "--results", str(results))
        assert done.returncode == 74, done.stdout + done.stderr
        assert not list(results.rglob("*.*"))
    kept = list(find(tmp_path / "state" / "unstored"))
    assert kept and "Traceback" not in done.stderr
    for path in kept:
        assert str(path) in done.stdout
        assert load(path).series[0].samples


@pytest.mark.parametrize(
    "argv",
    [
        ["site", "--results", ".", "--out", "file/_site"],
        ["gateway", "keys", "--state", "file/state"],
        ["export", "--ro-crate", "--results", "crate"],
        ["export", "--csv", "--results", str(RESULTS), "--out", "none/x.csv", "rig=policy-churn"],
        ["export", "--csv", "--results", str(RESULTS), "--out", "crate", "rig=policy-churn"],
        ["export", "--pyperf", str(RECORD), "--out", "file/x"],
    ],
)
def test_what_cannot_be_written_is_named_in_one_line(argv: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file", encoding="utf-8")
    (tmp_path / "crate" / "ro-crate-metadata.json").mkdir(parents=True)
    done = coppice_with(tmp_path / "none", *argv, cwd=tmp_path)
    assert done.returncode == 73, done.stderr
    assert done.stderr.startswith("coppice: ") and "Traceback" not in done.stderr
    assert not [path for path in tmp_path.rglob("*") if "half" in path.name or "._" in path.name]


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="the substrate needs root")
def test_a_cache_that_cannot_be_written_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("a file", encoding="utf-8")
    monkeypatch.setenv("COPPICE_CACHE", str(tmp_path / "file" / "cache"))
    argv = ("run", "cold-start", "--substrate", "process", "--tier", "full")
    done = coppice_with(tmp_path / "none", *argv, cwd=tmp_path)
    assert done.returncode == 73, done.stdout + done.stderr
    assert "COPPICE_CACHE" in done.stdout and "Traceback" not in done.stdout


def test_variables_for_other_work_with_pytest_and_python_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "PYTEST_ADDOPTS": "--nonsense",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTEST_PLUGINS": "nonsense",
        "PYTEST_THEME": "nonsense",
        "PYTHONWARNINGS": "error",
        "PYTHONWARNDEFAULTENCODING": "1",
        "PYTHONOPTIMIZE": "2",
        "PYTHONINSPECT": "",
    }.items():
        monkeypatch.setenv(name, value)
    done = coppice("run", "cold-start", "--substrate", "noop", "--results", str(tmp_path))
    assert done.returncode == 0 and done.stderr == "", done.stdout + done.stderr
    assert list(find(tmp_path))


def test_modules_and_settings_of_the_directory_are_not_read(tmp_path: Path) -> None:
    for name in ("harness", "json", "pytest", "conftest"):
        (tmp_path / f"{name}.py").write_text(
            "raise RuntimeError('of the directory')", encoding="utf-8"
        )
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --nonsense\n", encoding="utf-8")
    before = set(tmp_path.iterdir())
    done = coppice_with(tmp_path / "none", *RUN, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (results,) = set(tmp_path.iterdir()) - before
    assert results.name == "results", "and a run leaves nothing else where the user is"
    assert [json.loads(path.read_text(encoding="utf-8")) for path in results.rglob("*.run.json")]

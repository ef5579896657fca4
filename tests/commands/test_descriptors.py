"""Few file descriptors, and standard streams that the caller has closed."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import cli
from harness.measure.record import find, load
from tests.host.processes import ROOT

NOOP = ["run", "cold-start", "--substrate", "noop", "--concurrency", "1"]
ORDINARY = [
    ["clean", "--dry-run"], ["site", "--out", "site"], ["export", "--csv"],
    ["compare", "rig=a", "rig=b"], ["chart", "--list"], ["setup", "--dry-run"],
]  # fmt: skip
WITH_SANDBOXES = [NOOP, ["doctor"], ["gateway", "--substrate", "noop"], ["gateway", "keys"]]


@contextlib.contextmanager
def free_descriptors(count: int) -> Iterator[None]:
    """Let this process open so many more files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as stack:
        used = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
        last = 0
        while last <= used:  # until all are free above the last
            last = os.open(os.devnull, os.O_RDONLY)
            stack.callback(os.close, last)
        resource.setrlimit(resource.RLIMIT_NOFILE, (last + 1 + count, hard))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        yield


@pytest.mark.skipif(sys.platform != "linux", reason="counts in /proc")
@pytest.mark.parametrize(
    ("argv", "count"),
    [(argv, count) for argv in (*ORDINARY, *WITH_SANDBOXES) for count in (0, 1, 5, 20)]
    + [(argv, count) for argv in WITH_SANDBOXES for count in (60, 200)],
)
def test_too_few_are_refused_before_anything_else(
    argv: list[str],
    count: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COPPICE_STATE", str(tmp_path / "state"))
    with free_descriptors(count):
        code = cli.main(argv)
    shown = capsys.readouterr()
    assert code == 71 and not shown.out
    assert f"and gets {count}:" in shown.err and "ulimit -n" in shown.err
    assert not list(tmp_path.iterdir())


def _close_standard() -> None:
    os.closerange(0, 3)


def test_closed_standard_streams_are_the_null_device(tmp_path: Path) -> None:
    results = tmp_path / "results"
    argv = [sys.executable, "-m", "harness", *NOOP, "--results", str(results)]
    done = subprocess.run(argv, cwd=ROOT, preexec_fn=_close_standard, timeout=200)
    assert done.returncode == 0
    (path,) = find(results)
    assert load(path).series[0].samples


@pytest.mark.parametrize("argv", [["export", "--nope"], ["--nope"], [*NOOP, "--rounds", "x"]])
def test_a_full_disk_behind_standard_error_does_not_change_the_code(argv: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([sys.executable, "-m", "harness", *argv], cwd=ROOT, stderr=full)
    assert done.returncode == 64


@pytest.mark.skipif(sys.platform != "linux", reason="/proc shows the size of the table")
def test_room_for_descriptors_is_made_beforehand() -> None:
    code = (
        "import os, pathlib; from harness import descriptors\n"
        "def size(): return int(pathlib.Path('/proc/self/status').read_text()"
        ".split('FDSize:')[1].split()[0])\n"
        "before, opened = size(), os.listdir('/proc/self/fd')\n"
        "descriptors.make_room(1000)\n"
        "assert os.listdir('/proc/self/fd') == opened\n"
        "print(before, size())"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
    )
    before, after = map(int, run.stdout.split())
    assert before < 1000 <= after

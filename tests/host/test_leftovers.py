"""Promise 5: a harness killed in any phase leaves only what `coppice clean` finds and removes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.host.leftovers import find
from harness.host.run import open_run

Owner = Callable[[str], tuple["subprocess.Popen[str]", Path]]


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A runtime folder of this test's own: nobody else's runs are touched."""
    monkeypatch.setenv("COPPICE_RUNTIME", str(tmp_path / "runtime"))
    return tmp_path / "runtime"


@pytest.fixture
def owner(runtime: Path) -> Iterator[Owner]:
    """Starts a harness process and waits until it has reached a phase."""
    started: list[subprocess.Popen[str]] = []

    def start(phase: str) -> tuple[subprocess.Popen[str], Path]:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.host.owner", phase], stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout
        word, folder = process.stdout.readline().split(maxsplit=1)
        assert word == "READY"
        return process, Path(folder.strip())

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout
        process.stdout.close()
    subprocess.run([sys.executable, "-m", "harness.cli", "clean"], check=True)


def _processes(folder: Path) -> list[int]:
    mark = f"COPPICE_RUN={folder}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def _clean(*options: str) -> str:
    command = [sys.executable, "-m", "harness.cli", "clean", *options]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize("phase", ["launching", "ready", "out", "refilling"])
def test_what_sigkill_leaves_is_cleaned(runtime: Path, owner: Owner, phase: str) -> None:
    process, folder = owner(phase)
    if phase == "launching":
        deadline = time.monotonic() + 30
        while not _processes(folder) and time.monotonic() < deadline:
            time.sleep(0.02)
    process.kill()
    process.wait()
    assert _processes(folder), "VMMs outlive their owner's SIGKILL: there is something to clean"
    said = _clean("--dry-run")
    assert "would remove process" in said and _processes(folder)
    said = _clean()
    assert "removed process" in said and "removed folder" in said and "removed lease" in said
    assert _processes(folder) == [] and find(runtime) == []
    assert not folder.exists() and list((runtime / "leases").iterdir()) == []
    assert "nothing of ours is left" in _clean()


def test_a_mount_in_a_dead_runs_folder_goes_too(runtime: Path, owner: Owner) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    process, folder = owner("mounted")
    process.kill()
    process.wait()
    assert "removed mount" in _clean()
    assert str(folder) not in Path("/proc/self/mounts").read_text() and not folder.exists()


def test_a_living_run_is_not_touched(runtime: Path, owner: Owner) -> None:
    dead, dead_folder = owner("ready")
    living, living_folder = owner("ready")
    dead.kill()
    dead.wait()
    _clean()
    assert _processes(dead_folder) == []
    assert len(_processes(living_folder)) == 2 and living.poll() is None
    assert len(list((runtime / "leases").iterdir())) == 2


def test_the_next_run_reclaims_by_itself(runtime: Path, owner: Owner) -> None:
    process, folder = owner("ready")
    process.kill()
    process.wait()
    with open_run(runtime):
        assert _processes(folder) == [] and not folder.exists()


@pytest.mark.parametrize("phase", ["launching", "ready", "out"])
def test_an_interrupt_leaves_nothing_at_all(runtime: Path, owner: Owner, phase: str) -> None:
    process, folder = owner(phase)
    process.send_signal(signal.SIGINT)
    process.wait(60)
    assert _processes(folder) == [] and not folder.exists()
    assert list((runtime / "leases").iterdir()) == []

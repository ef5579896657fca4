"""Temporary directories outside of a run, and what is left of them after a crash."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.host import scratch
from harness.host.leftovers import find, reclaim

OWNER = """
import sys, time
from harness.host.scratch import temporary_directory
with temporary_directory() as directory:
    (directory / "file").touch()
    print(directory, flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TMPDIR is another directory; Python remembers the one that it found first."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", None)


@contextmanager
def owned() -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """A directory of a living process, old enough to be judged."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True, encoding="utf-8"
    )
    with process:
        assert process.stdout
        directory = Path(process.stdout.readline().strip())
        try:
            _age(directory)
            yield directory, process
        finally:
            process.kill()


def _age(directory: Path) -> None:
    then = time.time() - 60
    os.utime(directory, (then, then))


def test_a_directory_goes_when_its_block_ends(tmp_path: Path) -> None:
    with scratch.temporary_directory(0o755) as directory:
        assert directory.parent == tmp_path / "temporary"
        assert directory.stat().st_mode & 0o777 == 0o755
    assert not directory.exists()


def test_a_killed_owner_leaves_a_directory_that_clean_removes(tmp_path: Path) -> None:
    with owned() as (directory, process):
        assert directory not in scratch.abandoned()
        process.kill()
        process.wait()
        listed = [leftover.name for leftover in find(tmp_path / "runs", tmp_path / "cache")]
        assert str(directory) in listed
        reclaim(tmp_path / "runs")
        assert not directory.exists()


def test_what_may_have_an_owner_stays(tmp_path: Path) -> None:
    place = tmp_path / "temporary"
    new = place / f"{scratch.PREFIX}new"
    new.mkdir()
    target = place / "other"
    target.mkdir()
    _age(target)
    (place / f"{scratch.PREFIX}link").symlink_to(target)
    of_another_user = place / f"{scratch.PREFIX}foreign"
    of_another_user.mkdir()
    _age(of_another_user)
    if os.geteuid() == 0:
        os.chown(of_another_user, 65534, 65534)
    expected = [] if os.geteuid() == 0 else [of_another_user]
    assert [path for path in scratch.abandoned() if path.parent == place] == expected

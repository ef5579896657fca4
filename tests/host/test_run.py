from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from harness.errors import PathError
from harness.host import run as runs
from harness.host.identity import allocate
from harness.host.leftovers import find
from harness.host.locks import HALF_BUILT, half_built, is_alive
from harness.host.run import JOURNAL, LOCK, VARIABLE
from harness.host.session import open_run
from harness.paths import runtime_directory


def test_ids_contain_the_time_and_are_unique() -> None:
    ids = [runs.new_run_id() for _ in range(100)]
    assert all(re.fullmatch(r"\d{8}T\d{6}Z-[0-9a-f]{8}", one) for one in ids)
    assert len(set(ids)) == len(ids)
    moment = datetime.strptime(ids[0][:16], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    assert abs((datetime.now(UTC) - moment).total_seconds()) < 10


def test_a_run_has_a_locked_directory_and_leaves_nothing(runtime: Path, cache: Path) -> None:
    with open_run() as run:
        assert run.directory == runtime / run.id
        assert (run.directory / LOCK).read_text(encoding="utf-8") == str(os.getpid())
        assert is_alive(run.directory)
        assert find(runtime) == []
        allocate(run.leases, run.id)  # never released by its owner
    assert not is_alive(run.directory)
    assert [path for path in runtime.rglob("*") if path != run.leases] == []


def test_a_run_that_raises_leaves_nothing(runtime: Path, cache: Path) -> None:
    with pytest.raises(ZeroDivisionError), open_run() as run:
        raise ZeroDivisionError
    assert not run.directory.exists()


def test_a_directory_without_a_lock_is_dead_unless_it_is_new(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    assert not is_alive(directory)
    directory.mkdir()
    assert is_alive(directory), "between mkdir and the lock file"
    (directory / LOCK).touch()
    assert is_alive(directory), "between the lock file and its lock"
    before = time.time() - 60
    os.utime(directory, (before, before))
    assert not is_alive(directory)
    os.utime(directory)
    (directory / LOCK).write_text("12345", encoding="utf-8")
    assert not is_alive(directory), "a lock file with a PID was locked before"


def test_a_relative_runtime_directory_becomes_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COPPICE_RUNTIME", "here")
    assert runtime_directory() == tmp_path.resolve() / "here"


def test_the_environment_is_small_and_names_the_run(
    runtime: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_MINE", "1")
    with open_run() as run:
        assert run.environment[VARIABLE] == str(run.directory)
        assert set(run.environment) <= {VARIABLE, "PATH", "HOME", "LANG", "TERM"}


def test_the_journal_keeps_events_in_order_until_the_run_ends(runtime: Path, cache: Path) -> None:
    with open_run() as run:
        run.note("began", count=2, where=Path("x"))
        run.note("ended")
        lines = [
            json.loads(line)
            for line in (run.directory / JOURNAL).read_text(encoding="utf-8").splitlines()
        ]
        assert [line["event"] for line in lines] == ["began", "ended"]
        assert lines[0]["count"] == 2 and lines[0]["where"] == "x"
        assert lines[0]["at"] <= lines[1]["at"] <= time.monotonic()
        assert datetime.fromisoformat(lines[0]["utc"]).tzinfo is not None
    run.note("too late")  # a thread that ends late does no harm
    assert not run.directory.exists()


def test_a_built_directory_appears_atomically(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "image"
    with half_built(target) as directory:
        assert directory.name.startswith(HALF_BUILT)
        (directory / "file").write_text("whole", encoding="utf-8")
        assert not target.exists()
    assert (target / "file").read_text(encoding="utf-8") == "whole"
    assert target.stat().st_mode & 0o777 == 0o755
    assert list(target.parent.iterdir()) == [target]


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), half_built(tmp_path / "image") as directory:
        (directory / "file").write_text("half", encoding="utf-8")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_one_result_of_two_concurrent_builders_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "image"
    both = threading.Barrier(2)

    def build(word: str) -> None:
        with half_built(target) as directory:
            (directory / "file").write_text(word, encoding="utf-8")
            both.wait(60)

    threads = [threading.Thread(target=build, args=(word,)) for word in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (target / "file").read_text(encoding="utf-8") in ("one", "two")
    assert list(tmp_path.iterdir()) == [target]


def test_directories_of_dead_builders_are_found_and_of_living_ones_are_not(
    runtime: Path, cache: Path
) -> None:
    dead = cache / "images" / f"{HALF_BUILT}dead"
    dead.mkdir(parents=True)
    assert find(runtime) == [], "an empty, new directory may be about to be locked"
    (dead / "file").touch()
    with half_built(cache / "images" / "image") as living:
        (living / "file").touch()
        assert [one.name for one in find(runtime)] == [str(dead)]
        with open_run():
            assert not dead.exists()
            assert living.exists()
    assert (cache / "images" / "image").is_dir()


def test_children_inherit_the_refusal_of_huge_pages() -> None:
    code = (
        "from harness.host.memory import refuse_huge_pages as f; import subprocess; f();"
        "print(subprocess.check_output(['cat', '/proc/self/status'], text=True))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, encoding="utf-8"
    )
    assert re.search(r"^THP_enabled:\s*0$", done.stdout, re.M) or "THP_enabled" not in done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a directory away needs root")
def test_a_runtime_directory_of_another_user_is_refused(runtime: Path, cache: Path) -> None:
    runtime.mkdir()
    os.chown(runtime, 12345, 12345)
    with pytest.raises(PathError, match="belongs to the user 12345"), open_run():
        pytest.fail("a run was opened there")
    assert list(runtime.iterdir()) == []

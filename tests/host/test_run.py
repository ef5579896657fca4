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

from harness.host import run as runs
from harness.host.identity import allocate
from harness.host.leftovers import find
from harness.host.locks import HALF_BUILT, half_built, is_alive
from harness.host.run import JOURNAL, LOCK, VARIABLE
from harness.host.session import open_run
from harness.paths import runtime_directory


def test_an_id_says_when_and_no_two_are_equal() -> None:
    ids = [runs.new_run_id() for _ in range(100)]
    assert all(re.fullmatch(r"\d{8}T\d{6}Z-[0-9a-f]{8}", one) for one in ids)
    assert len(set(ids)) == len(ids)
    moment = datetime.strptime(ids[0][:16], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    assert abs((datetime.now(UTC) - moment).total_seconds()) < 10


def test_a_run_has_a_locked_directory_and_nothing_of_it_stays(runtime: Path, cache: Path) -> None:
    with open_run() as run:
        assert run.directory == runtime / run.id
        assert (run.directory / LOCK).read_text() == str(os.getpid())
        assert is_alive(run.directory)
        assert find(runtime) == []
        allocate(run.leases, run.id)  # whose maker forgets it
    assert not is_alive(run.directory)
    assert [path for path in runtime.rglob("*") if path != run.leases] == []


def test_a_run_that_raises_leaves_nothing_either(runtime: Path, cache: Path) -> None:
    with pytest.raises(ZeroDivisionError), open_run() as run:
        raise ZeroDivisionError
    assert not run.directory.exists()


def test_a_directory_without_a_held_lock_is_dead_unless_it_is_brand_new(tmp_path: Path) -> None:
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
    (directory / LOCK).write_text("12345")
    assert not is_alive(directory), "a lock file that names an owner had been locked"


def test_a_relative_runtime_directory_is_the_same_from_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COPPICE_RUNTIME", "here")
    assert runtime_directory() == tmp_path.resolve() / "here"


def test_the_environment_is_small_and_marked(
    runtime: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_MINE", "1")
    with open_run() as run:
        assert run.environment[VARIABLE] == str(run.directory)
        assert set(run.environment) <= {VARIABLE, "PATH", "HOME", "LANG", "TERM"}


def test_the_journal_keeps_events_in_order_and_outlives_no_run(runtime: Path, cache: Path) -> None:
    with open_run() as run:
        run.note("began", count=2, where=Path("x"))
        run.note("ended")
        lines = [json.loads(line) for line in (run.directory / JOURNAL).read_text().splitlines()]
        assert [line["event"] for line in lines] == ["began", "ended"]
        assert lines[0]["count"] == 2 and lines[0]["where"] == "x"
        assert lines[0]["at"] <= lines[1]["at"] <= time.monotonic()
        assert datetime.fromisoformat(lines[0]["utc"]).tzinfo is not None
    run.note("too late")  # a thread that is still ending does no harm
    assert not run.directory.exists()


def test_what_is_built_appears_whole_and_at_once(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "image"
    with half_built(target) as directory:
        assert directory.name.startswith(HALF_BUILT)
        (directory / "file").write_text("whole")
        assert not target.exists()
    assert (target / "file").read_text() == "whole"
    assert target.stat().st_mode & 0o777 == 0o755
    assert list(target.parent.iterdir()) == [target]


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), half_built(tmp_path / "image") as directory:
        (directory / "file").write_text("half")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_of_two_builders_at_once_one_result_stays(tmp_path: Path) -> None:
    target = tmp_path / "image"
    both = threading.Barrier(2)

    def build(word: str) -> None:
        with half_built(target) as directory:
            (directory / "file").write_text(word)
            both.wait(60)

    threads = [threading.Thread(target=build, args=(word,)) for word in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (target / "file").read_text() in ("one", "two")
    assert list(tmp_path.iterdir()) == [target]


def test_a_dead_builders_directory_is_found_and_a_living_ones_is_not(
    runtime: Path, cache: Path
) -> None:
    dead = cache / "images" / f"{HALF_BUILT}dead"
    dead.mkdir(parents=True)
    assert find(runtime) == [], "it is empty and new: its builder may be about to lock it"
    (dead / "file").touch()
    with half_built(cache / "images" / "image") as living:
        (living / "file").touch()
        assert [one.name for one in find(runtime)] == [str(dead)]
        with open_run():
            assert not dead.exists()
            assert living.exists()
    assert (cache / "images" / "image").is_dir()


def test_what_refuses_huge_pages_hands_that_on() -> None:
    code = (
        "from harness.host.memory import refuse_huge_pages as f; import subprocess; f();"
        "print(subprocess.check_output(['cat', '/proc/self/status'], text=True))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert re.search(r"^THP_enabled:\s*0$", done.stdout, re.M) or "THP_enabled" not in done.stdout

"""Runs, their folders and locks, and folders that appear in one step."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path

import pytest

from harness.host.run import HALF_BUILT, JOURNAL, VARIABLE, half_built, lives, new_run_id, open_run


def test_an_id_sorts_by_time_and_never_comes_twice() -> None:
    ids = [new_run_id() for _ in range(100)]
    assert len(set(ids)) == 100
    assert all(re.fullmatch(r"\d{8}T\d{6}Z-[0-9a-f]{8}", one) for one in ids)


def test_a_run_lives_until_it_ends(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        assert run.folder == tmp_path / run.id and lives(run.folder)
        assert run.environment[VARIABLE] == str(run.folder)
        assert "COPPICE_SECRET" not in run.environment
        run.note("spawned", pid=7)
        line = json.loads((run.folder / JOURNAL).read_text())
        assert (line["event"], line["pid"]) == ("spawned", 7)
    assert not run.folder.exists()


def test_a_run_that_fails_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), open_run(tmp_path) as run:
        raise KeyboardInterrupt
    assert not run.folder.exists()


def test_what_is_built_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with half_built(tmp_path / "good") as folder:
        (folder / "file").write_text("x")
        assert not (tmp_path / "good").exists()
    assert (tmp_path / "good" / "file").read_text() == "x"
    with pytest.raises(RuntimeError), half_built(tmp_path / "bad") as folder:
        (folder / "file").write_text("x")
        raise RuntimeError
    assert [one.name for one in tmp_path.iterdir()] == ["good"]


def test_of_two_builders_one_wins(tmp_path: Path) -> None:
    both = threading.Barrier(2)

    def build(text: str) -> None:
        with half_built(tmp_path / "target") as folder:
            (folder / "file").write_text(text)
            both.wait()

    threads = [threading.Thread(target=build, args=(text,)) for text in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "target" / "file").read_text() in "ab"
    assert not list(tmp_path.glob(f"{HALF_BUILT}*"))

"""Runs of gateways that are gone wait to be taken over, and only `coppice clean` removes them."""

from __future__ import annotations

import argparse
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from harness.commands import clean
from harness.host.dead_runs import DeadRuns
from harness.host.leftover import Leftover
from harness.host.leftovers import find, reclaim
from harness.host.locks import is_alive, own
from harness.host.run import DATABASE, LOCK, STATE, Run
from harness.host.session import open_run


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """The directory of a gateway's state."""
    directory = tmp_path / "state"
    directory.mkdir()
    (directory / DATABASE).touch()
    return directory


def begun(runtime: Path, state: Path) -> Run:
    """A gateway's run that is dead and waits."""
    with open_run(runtime) as run:
        (run.directory / STATE).write_text(str(state), encoding="utf-8")
    assert run.directory.is_dir() and not run.taken_over and not is_alive(run.directory)
    return run


def of(run: Run, found: Sequence[Leftover]) -> list[str]:
    """The names of a run's leftovers; other runs on this machine may have some too."""
    return [leftover.name for leftover in found if leftover.run_id == run.id]


def test_other_runs_leave_a_waiting_run_alone(runtime: Path, cache: Path, state: Path) -> None:
    waiting = begun(runtime, state)
    with open_run(runtime) as other:
        assert waiting.directory.is_dir()
    assert waiting.directory.is_dir() and not other.directory.exists()
    assert of(waiting, find(runtime)) == of(waiting, reclaim(runtime)) == []


def test_clean_removes_a_waiting_run(runtime: Path, cache: Path, state: Path) -> None:
    waiting = begun(runtime, state)
    directory = [str(waiting.directory)]
    assert of(waiting, find(runtime, dead=DeadRuns(waiting=True))) == directory
    assert of(waiting, reclaim(runtime, waiting=True)) == directory
    assert not waiting.directory.exists()


@pytest.mark.parametrize("left", ["", "relative", "/nothing", "\0", "\ud800"])
def test_a_run_whose_state_is_gone_does_not_wait(
    runtime: Path, cache: Path, state: Path, left: str
) -> None:
    waiting = begun(runtime, state)
    (waiting.directory / STATE).write_bytes(left.encode(errors="surrogatepass"))
    with open_run(runtime, state=state) as run:
        assert not waiting.directory.exists() and not run.taken_over


def test_a_waiting_run_is_taken_over_until_it_no_longer_goes_on(
    runtime: Path, cache: Path, state: Path
) -> None:
    waiting = begun(runtime, state)
    closed: list[str] = []
    for _ in range(2):
        with open_run(runtime, state=state) as run:
            assert (run.id, run.taken_over) == (waiting.id, True)
            assert is_alive(run.directory)
            run.at_end.callback(closed.append, run.id)
    assert closed == [] and waiting.directory.is_dir()
    with open_run(runtime, state=state) as run:
        assert run.taken_over
        run.at_end.callback(closed.append, run.id)
        (run.directory / STATE).unlink()
    assert closed == [run.id] and not run.directory.exists()


def test_only_the_newest_of_several_runs_is_taken_over(
    runtime: Path, cache: Path, state: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / DATABASE).touch()
    older, stranger = begun(runtime, state), begun(runtime, other)
    newer = runtime / f"3{older.id[1:]}"
    older.directory.rename(newer)
    oldest = begun(runtime, state)
    with open_run(runtime, state=state) as run:
        assert run.directory == newer
        assert not oldest.directory.exists() and stranger.directory.is_dir()


@pytest.mark.parametrize("removed", [True, False])
def test_taking_over_waits_for_the_holder_of_the_lock(
    runtime: Path, cache: Path, state: Path, removed: bool
) -> None:
    """A gateway that is about to die holds it, or `coppice clean`, which removes the run."""
    waiting = begun(runtime, state)
    lock = own(waiting.directory)
    assert lock and is_alive(waiting.directory)
    assert of(waiting, reclaim(runtime, waiting=True)) == [], "the holder may remove it"
    found: list[tuple[str, bool]] = []

    def take_over() -> None:
        with open_run(runtime, state=state) as run:
            found.append((run.id, run.taken_over))

    thread = threading.Thread(target=take_over)
    thread.start()
    thread.join(0.2)
    assert thread.is_alive() and not found
    if removed:
        (waiting.directory / STATE).unlink()
        (waiting.directory / LOCK).unlink()
        waiting.directory.rmdir()
    lock.close()
    thread.join(60)
    ((id, taken_over),) = found
    assert taken_over is not removed and (id == waiting.id) is not removed


def test_a_run_that_is_looked_at_is_not_alive_for_that(
    runtime: Path, cache: Path, state: Path
) -> None:
    waiting = begun(runtime, state)
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            is_alive(waiting.directory)

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        assert not any(is_alive(waiting.directory) for _ in range(200))
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _options(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    clean.arguments(parser)
    return parser.parse_args(argv)


def test_clean_names_the_state_whose_sandboxes_it_ends(
    runtime: Path, cache: Path, state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun(runtime, state)
    clean.main(_options("--dry-run"))
    shown = capsys.readouterr().out
    assert f"would end what the gateway with the state in {state} had left running" in shown
    assert f"coppice gateway --state {state} " in shown
    clean.main(_options())
    assert f"\nended what the gateway with the state in {state} " in capsys.readouterr().out
    clean.main(_options())
    assert "ended what" not in capsys.readouterr().out

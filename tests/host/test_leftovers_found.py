"""What is taken for a leftover and what is not, made by hand; with real processes and runs beside
it in test_leftovers.py."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from harness.host import leftovers
from harness.host.leftover import Leftover
from harness.host.leftovers import find, reclaim, remove
from harness.host.locks import HALF_BUILT, locking
from harness.host.run import LOCK, STATE


@pytest.fixture
def held() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def _aged(path: Path, seconds: float = 60) -> Path:
    then = time.time() - seconds
    os.utime(path, (then, then))
    return path


def _found(runtime: Path, cache: Path) -> set[tuple[str, str]]:
    return {(one.what, one.name) for one in find(runtime, cache)}


def test_a_directory_that_a_dead_builder_began(runtime: Path, cache: Path, held: ExitStack) -> None:
    def begun(place: str, content: bool = True) -> Path:
        made = cache / place
        made.mkdir(parents=True)
        if content:
            (made / "part").touch()
        return made

    dead = [begun(f"{HALF_BUILT}a"), begun(f"images/{HALF_BUILT}b")]
    dead.append(_aged(begun(f"images/{HALF_BUILT}empty", content=False)))
    begun(f"images/{HALF_BUILT}brand-new", content=False)  # its builder may be about to lock it
    held.enter_context(locking(begun(f"images/{HALF_BUILT}at-work")))
    held.enter_context(locking(_aged(begun(f"images/{HALF_BUILT}thinks", content=False))))
    begun(f"images/whole/{HALF_BUILT}of-a-root-file-system")
    assert _found(runtime, cache) == {("half-built", str(one)) for one in dead}
    for one in find(runtime, cache):
        remove(one)
    assert find(runtime, cache) == [] and len(list((cache / "images").iterdir())) == 4


def test_what_a_killed_gateway_had_begun_to_save(
    runtime: Path, cache: Path, tmp_path: Path, held: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where its run says that its state is, and in the usual place even without its run."""
    monkeypatch.setenv("COPPICE_STATE", str(tmp_path / "usual"))
    states = (tmp_path / "named", tmp_path / "usual" / "gateway")
    for state in states:
        for name in (f"{HALF_BUILT}dead", f"{HALF_BUILT}at-work", "whole"):
            (state / "saved" / name).mkdir(parents=True)
            (state / "saved" / name / "memory").touch()
        held.enter_context(locking(state / "saved" / f"{HALF_BUILT}at-work"))
    run = runtime / "20260102T030405Z-0123abcd"
    run.mkdir(parents=True)
    (run / LOCK).write_text("1", encoding="utf-8")
    (run / STATE).write_text(str(states[0]), encoding="utf-8")
    dead = {("half-built", str(state / "saved" / f"{HALF_BUILT}dead")) for state in states}
    assert _found(runtime, cache) == {*dead, ("directory", str(run))}
    reclaim(runtime)
    for state in states:
        left = {entry.name for entry in (state / "saved").iterdir()}
        assert left == {f"{HALF_BUILT}at-work", "whole"}


def test_a_copy_of_the_harness_whose_run_is_dead(runtime: Path, cache: Path) -> None:
    copy = cache / "remote" / "20260102T030405Z-0123abcd"
    copy.mkdir(parents=True)
    (copy / LOCK).write_text("1", encoding="utf-8")
    assert find(runtime, cache) == [Leftover("directory", copy.name, str(copy))]
    remove(find(runtime, cache)[0])
    assert find(runtime, cache) == [] and (cache / "remote").is_dir()


def _off(runtime: Path) -> Path:
    """A host that is turned off and on, of old."""
    host = runtime.parent / f"{leftovers.REBOOTED}{os.getpid()}"
    (host / leftovers.RUNTIME).mkdir(parents=True)
    return _aged(host)


def test_a_host_that_is_not_turned_on_again(runtime: Path, cache: Path) -> None:
    host = _off(runtime)
    run = host / leftovers.RUNTIME / "20260102T030405Z-0123abcd"
    run.mkdir()
    (run / LOCK).write_text("1", encoding="utf-8")
    mark = leftovers.mark_of(host)
    mark.touch()
    try:
        assert find(runtime, cache) == [
            Leftover("directory", run.name, str(run)),
            Leftover("file", host.name, str(mark)),
            Leftover("directory", host.name, str(host)),
        ]
        for one in find(runtime, cache):
            remove(one)
        assert find(runtime, cache) == [] and not host.exists() and not mark.exists()
    finally:
        mark.unlink(missing_ok=True)


def _new(host: Path, held: ExitStack) -> None:
    os.utime(host)


def _locked(host: Path, held: ExitStack) -> None:
    held.enter_context(locking(host))


def _with_a_living_run(host: Path, held: ExitStack) -> None:
    run = host / leftovers.RUNTIME / "20260102T030405Z-0123abcd"
    run.mkdir()
    lock = held.enter_context((run / LOCK).open("w", encoding="utf-8"))
    fcntl.flock(lock, fcntl.LOCK_EX)


@pytest.mark.parametrize("make", [_new, _locked, _with_a_living_run])
def test_a_host_that_is_in_use(
    make: Callable[[Path, ExitStack], None], runtime: Path, cache: Path, held: ExitStack
) -> None:
    host = _off(runtime)
    assert ("directory", str(host)) in _found(runtime, cache)
    make(host, held)
    if make is _with_a_living_run:
        _aged(host)
    assert find(runtime, cache) == []


def test_what_went_by_itself_is_no_error(runtime: Path, cache: Path, tmp_path: Path) -> None:
    for what in ("directory", "lease", "file", "half-built"):
        remove(Leftover(what, "x", str(tmp_path / "gone")))
    remove(Leftover("process", "x", str(2**22 + 1)))  # beyond the largest number of a process
    assert reclaim(runtime) == []

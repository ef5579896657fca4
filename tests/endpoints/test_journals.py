"""A journal that is damaged, contended or cannot be written never hides a sandbox."""

from __future__ import annotations

import argparse
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from harness.commands import clean
from harness.endpoints import clearing, event_loop, journal, journal_entries, session
from harness.endpoints.client import ApiClient, NoJournal
from harness.endpoints.journal import RunJournal
from harness.endpoints.settings import Endpoint
from harness.errors import CoppiceError, DiskFull, PathError
from harness.rig.progress import Progress
from tests.endpoints.services import endpoint
from tests.stand_ins.server import Standing, standing_in

RUN = "20261201T000000Z-00000000"
DAMAGE = [
    b"5", b"null", b'{"asked":null}', b"[1]", b'"run"', b'{"asked":"x"}', b'{"asked":1e308}',
    b'{"asked":NaN}', b'{"asked":true}', b'{"run":"r","key_variable":5}', b'{"run":{}}', b"\0" * 90,
    bytes(range(256)) * 99, b'{"made":"../../keys"}', b'{"made":{"a":1}}', b'{"made":["i1"]}',
    b'{"gone":7}', b'{"refused":9}', b'{"other":1}', b"{}", b"[" * 5000, b'{"made":"i1","x":1}',
]  # fmt: skip


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COPPICE_STATE", str(tmp_path / "state"))
    monkeypatch.setattr(clearing, "PATIENCE_S", 0.3)
    return tmp_path / "state"


@pytest.fixture
def service() -> Iterator[Standing]:
    with standing_in() as service:
        yield service


def make(at: Endpoint, notes: RunJournal | NoJournal, count: int = 1) -> None:
    async def whole() -> None:
        client = ApiClient(at, notes)
        try:
            for _ in range(count):
                await client.create()
        finally:
            client.close()

    event_loop.run(whole())


def left_by_a_dead_run(service: Standing, **settings: Any) -> Path:
    """A run that made a sandbox and was killed: its journal."""
    at = endpoint(service, **settings)
    with journal.opened(at, RUN) as notes:
        make(at, notes)
        return notes.path


def cleaned(service: Standing, monkeypatch: pytest.MonkeyPatch, key: str = "") -> int:
    """What `coppice clean --endpoint` returns."""
    monkeypatch.setenv("E2B_API_KEY", key or service.key)
    parser = argparse.ArgumentParser()
    clean.arguments(parser)
    return clean.main(parser.parse_args(["--endpoint", service.address]))


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: repr(damage[:24]))
def test_damage_is_counted_and_takes_nothing_from_the_rest(state: Path, damage: bytes) -> None:
    at = Endpoint("stand-in", "stand-in", "http://127.0.0.1:9", "a-key")
    with journal.opened(at, RUN) as notes:
        notes.asked(60)
        notes.made("i2")
    sound = notes.path.read_bytes()
    (before,) = journal.dead()
    notes.path.write_bytes(sound + damage + b"\n" + sound)
    (after,) = journal.dead(at.address)
    assert after.damaged and not before.damaged and after.alive == ["i2"]
    assert (after.run_id, after.address, after.made) == (RUN, at.address, 2)
    assert time.time() < after.until < time.time() + 2 * 86400
    assert after.key_variable == before.key_variable and after.key_mark == before.key_mark


@pytest.mark.parametrize("whole", [True, False], ids=["alone", "among-others"])
@pytest.mark.parametrize("damage", [b"[1]", b'{"made":"../../keys"}'], ids=["json", "id"])
def test_a_damaged_journal_hides_no_sandbox(service: Standing, damage: bytes, whole: bool) -> None:
    path = left_by_a_dead_run(service)
    sound = path.read_bytes()
    path.write_bytes(damage + b"\n" if whole else sound + damage + b"\n")
    (entries,) = journal.dead(service.address)
    assert entries.damaged and entries.run_id == RUN
    told: list[str] = []
    assert session.reclaim(endpoint(service), told.append).deleted == service.service.made
    assert any(f"the journal of run {RUN} is damaged ({path})" in line for line in told)
    assert service.alive == [] and not path.exists()


def test_a_damaged_journal_stays_while_a_service_without_a_list_may_have_its_sandboxes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with standing_in("no-list") as service:
        path = left_by_a_dead_run(service)
        path.write_bytes(b"5\n")
        assert cleaned(service, monkeypatch) == 76 and path.exists()
        assert "to try again: coppice clean --endpoint" in capsys.readouterr().err
        os.utime(path, (0, 0))  # its last sandbox has ended by itself since
        assert cleaned(service, monkeypatch) == 0 and not path.exists()


def test_what_is_no_regular_file_is_no_journal(service: Standing, state: Path) -> None:
    path = left_by_a_dead_run(service)
    os.mkfifo(path.with_name("a.jsonl"))
    path.with_name("b.jsonl").mkdir()
    path.with_name("c.jsonl").symlink_to("/dev/zero")
    path.with_name("d.jsonl").symlink_to("absent")
    assert [entries.path for entries in journal.dead()] == [path]


def test_addresses_that_share_a_directory_do_not_share_journals(service: Standing) -> None:
    path = left_by_a_dead_run(service)
    other = service.address.replace("http://", "https://")
    assert [entries.path for entries in journal.dead(service.address)] == [path]
    assert journal.dead(other) == []


def test_a_run_that_begins_keeps_its_journal_although_others_remove_it(
    service: Standing, monkeypatch: pytest.MonkeyPatch
) -> None:
    removals = iter(range(2))
    flock, mkdir = fcntl.flock, Path.mkdir

    def contended(handle: Any, operation: int) -> None:
        if operation == fcntl.LOCK_EX and next(removals, None) is not None:
            for path in list(journal.directory().rglob("*.jsonl")):
                journal.drop(path)  # between its creation and its lock
        flock(handle, operation)

    vanishing = iter(range(2))

    def vanishes(self: Path, *arguments: Any, **options: Any) -> None:
        mkdir(self, *arguments, **options)
        if next(vanishing, None) is not None:
            self.rmdir()  # by the removal of another's journal

    monkeypatch.setattr(fcntl, "flock", contended)
    monkeypatch.setattr(Path, "mkdir", vanishes)
    with journal.opened(endpoint(service), RUN) as notes:
        assert notes.path.read_bytes() and os.path.samestat(
            notes.path.stat(), os.fstat(notes._handle)
        )
        journal.drop(notes.path)
        assert notes.path.exists(), "it lives"
        notes.drop()
        assert not notes.path.exists() and notes.entries().run_id == RUN
        assert next(removals, None) is next(vanishing, None) is None


def test_a_journal_that_goes_while_it_is_looked_for_is_no_fault(
    service: Standing, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = left_by_a_dead_run(service)
    real = journal_entries.read_dead

    def late(path: Path) -> Any:
        journal.drop(path)
        return real(path)

    monkeypatch.setattr("harness.endpoints.journal.read_dead", late)
    assert journal.dead() == [] and not path.exists()
    journal.drop(path)


def test_a_directory_that_goes_while_it_is_read_is_no_fault(
    service: Standing, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_by_a_dead_run(service)

    def gone(*_: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "glob", gone)
    assert journal.dead() == journal.dead(service.address) == []


def test_a_full_disk_is_one_sentence_and_nothing_is_made(service: Standing) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    handle = os.open("/dev/full", os.O_WRONLY)
    try:
        notes = RunJournal(handle, Path("run.jsonl"), RUN)
        with pytest.raises(DiskFull, match=r"run.jsonl cannot be written: No space left") as full:
            make(endpoint(service), notes)
        assert "COPPICE_STATE" in str(full.value)
        notes.gone("i1")  # deletions go on
    finally:
        os.close(handle)
    assert not service.service.made


def test_a_line_that_is_written_in_part_is_taken_back(
    service: Standing, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    with journal.opened(endpoint(service), RUN) as notes:

        def short(handle: int, data: bytes) -> int:
            return write(handle, data[:5] if handle == notes._handle else data)

        before = notes.path.read_bytes()
        monkeypatch.setattr(os, "write", short)
        with pytest.raises(DiskFull):
            notes.asked(60)
        monkeypatch.undo()
        assert notes.path.read_bytes() == before
        notes.made("i1")
        assert notes.entries().alive == ["i1"] and not notes.entries().damaged


def test_a_sandbox_that_cannot_be_noted_is_deleted_at_once(service: Standing) -> None:
    class Full(NoJournal):
        def made(self, id: str) -> None:
            raise DiskFull("no room")

    with pytest.raises(DiskFull):
        make(endpoint(service), Full(RUN))
    assert len(service.service.deleted) == 1 and service.alive == []


def test_a_state_directory_that_cannot_be_written_is_one_sentence(
    service: Standing, state: Path
) -> None:
    for blocked in (state, state / "endpoints"):
        blocked.parent.mkdir(exist_ok=True)
        blocked.write_text("a file", encoding="utf-8")
        with pytest.raises(PathError, match="cannot be made"):
            with session.begun(endpoint(service), RUN, lambda text: None):
                pass
        blocked.unlink()


@pytest.mark.parametrize("kind", [DiskFull, PathError])
def test_no_frames_are_shown_where_a_journal_cannot_be_written(kind: type[CoppiceError]) -> None:
    def fails() -> None:
        raise kind("the journal cannot be written")

    hook = Progress.pytest_runtest_makereport(
        Mock(), Mock(), pytest.CallInfo.from_call(fails, "call")
    )
    next(hook)
    with pytest.raises(StopIteration) as end:
        hook.send(Mock(failed=True, when="teardown", longrepr="a stack of frames"))
    assert end.value.value.longrepr == "the journal cannot be written"


def test_a_deletion_that_is_interrupted_says_what_finishes_it(
    service: Standing, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    told: list[str] = []
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        with session.begun(endpoint(service), RUN, told.append) as begun:
            make(endpoint(service), begun.journal)
            patch.setattr(clearing, "_settle", interrupted)
            patch.setattr(clearing, "_delete", interrupted)
    assert f"the deletion was not finished: run {RUN} may have left sandboxes" in told
    assert told[-1].startswith("  to finish it: coppice clean --endpoint")
    assert session.reclaim(endpoint(service)).deleted == service.service.made


def test_what_another_key_has_made_is_not_taken_for_gone(
    service: Standing, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = left_by_a_dead_run(service, key_variable="E2B_API_KEY")
    own = service.service.key
    # To another account's key the service says that there is no such sandbox.
    hidden = service.service._sandboxes
    service.service._sandboxes, service.service.key = {}, "e2b_of_another_account"
    assert cleaned(service, monkeypatch, "e2b_of_another_account") == 76 and path.exists()
    shown = capsys.readouterr()
    assert "gone already" not in shown.out and "another key has made" in shown.err
    service.service._sandboxes, service.service.key = hidden, own
    assert cleaned(service, monkeypatch) == 0 and not path.exists()
    assert "deleted the sandbox" in capsys.readouterr().out


def test_each_dead_run_is_cleaned_with_the_key_of_its_variable(
    service: Standing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTHER_KEY", service.key)
    for run_id, variable in (("a", "E2B_API_KEY"), ("b", "OTHER_KEY")):
        at = endpoint(service, key_variable=variable)
        with journal.opened(at, run_id) as notes:
            make(at, notes)
    asked: list[tuple[str, str]] = []
    clear = clearing.clear

    async def watched(at: Endpoint, entries: journal.Entries) -> clearing.Cleared:
        asked.append((entries.run_id, at.key_variable))
        return await clear(at, entries)

    monkeypatch.setattr(clearing, "clear", watched)
    assert cleaned(service, monkeypatch) == 0
    assert asked == [("a", "E2B_API_KEY"), ("b", "OTHER_KEY")] and service.alive == []


def test_a_sandbox_that_was_gone_is_not_called_deleted(
    service: Standing, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    left_by_a_dead_run(service)
    service.service._sandboxes.clear()
    assert cleaned(service, monkeypatch) == 0
    (id,) = service.service.made
    assert capsys.readouterr().out == f"the sandbox {id} was gone already\n"


@pytest.mark.parametrize("settings", [{"odd_strangers": True}, {"same_page": True}], ids=str)
def test_an_odd_list_hides_nothing(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with standing_in(**settings) as service:
        path = left_by_a_dead_run(service)
        path.write_bytes(path.read_bytes().rpartition(b'{"made"')[0])  # the answer was lost
        assert cleaned(service, monkeypatch) == 0
        assert service.alive == [] and not path.exists()


def test_a_list_without_end_keeps_a_journal_only_until_its_sandboxes_have_ended(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("harness.endpoints.client.PAGES", 3)
    with standing_in("pages-without-end") as service:
        path = left_by_a_dead_run(service)
        assert cleaned(service, monkeypatch) == 76 and path.exists()
        assert "to try again: coppice clean --endpoint" in capsys.readouterr().err
        later = time.time() + 3600
        monkeypatch.setattr("harness.endpoints.clearing.time.time", lambda: later)
        assert cleaned(service, monkeypatch) == 0 and not path.exists()

"""A gateway's database that is damaged: a row costs what it describes, and nothing is lost in
silence."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from harness.errors import CoppiceError, DiskFull, PathError, StateError
from harness.gateway.fleets.noop import NoopFleet
from harness.gateway.metrics import Metrics
from harness.gateway.sandboxes import database
from harness.gateway.sandboxes.database import SCHEMA, log_damage
from harness.gateway.sandboxes.service import Sandboxes
from harness.gateway.sandboxes.store import FILE, Snapshot, Store, StoredSandbox, opened

FLIPS = 60
COUNT = 12


def sandbox(number: int) -> StoredSandbox:
    return StoredSandbox(
        f"i{number:020}", "key", "base", "paused", 1.5, 2.5, metadata={"number": str(number)},
        identity={"hostname": f"sandbox-{number}"}, saved=f"/state/saved/i{number}",
    )  # fmt: skip


def snapshot(number: int) -> Snapshot:
    return Snapshot(f"s-{number}", "key", ["name"], f"/state/saved/s{number}", "base", "i1", 1.5)


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A database with sandboxes, snapshots and keys."""
    path = tmp_path / "whole" / FILE
    with opened(path) as store:
        store.secret()
        store.note("substrate", "qemu")
        for number in range(COUNT):
            store.put(sandbox(number))
            store.put_snapshot(snapshot(number))
            store.new_key(f"key {number}")
    return path


def content(path: Path) -> tuple[list[object], ...]:
    """What a gateway reads, and what it names as damaged."""
    with opened(path) as store:
        store.check()
        facts: list[object] = [store.fact("secret"), store.fact("substrate")]
        keys: list[object] = [*store.all_keys()]
        named: list[object] = [*sorted(store.damaged)]
        return facts, keys, [*store.sandboxes()], [*store.snapshots()], named


@contextlib.contextmanager
def edited(path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(path)
    with connection:
        yield connection
    connection.close()


def test_no_flipped_bit_gives_other_data_in_silence(whole: Path, tmp_path: Path) -> None:
    expected, data = content(whole), whole.read_bytes()
    flips = random.Random(27)
    for count in range(FLIPS):
        at, bit = flips.randrange(len(data)), flips.randrange(8)
        path = tmp_path / str(count) / FILE
        path.parent.mkdir()
        path.write_bytes(data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :])
        try:
            found = content(path)
        except CoppiceError as error:
            assert str(path) in str(error) and error.exit_code in (65, 73)
            continue
        assert found == expected or found[-1], f"bit {bit} of byte {at} is not noticed"
        assert found[0] == expected[0], "one damaged row must not cost the whole gateway"
        for table, former in zip(found[1:-1], expected[1:-1], strict=True):
            assert len(table) >= len(former) - 1
            assert all(row in former for row in table), f"bit {bit} of byte {at} gives other data"


@pytest.mark.parametrize(
    "document",
    ["", "{", "[]", '{"id": 5}', '{"started": "then"}', "\x00", "[" * 60_000, "{\udcff"],
)
def test_a_damaged_row_costs_one_sandbox_and_is_named(
    whole: Path, document: str, caplog: pytest.LogCaptureFixture
) -> None:
    with edited(whole) as connection:
        connection.execute(
            "update sandboxes set doc = cast(? as text) where id = ?",
            (document.encode("utf-8", "surrogateescape"), sandbox(3).id),
        )
    *_, sandboxes, snapshots, damaged = content(whole)
    assert len(sandboxes) == COUNT - 1 and len(snapshots) == COUNT
    assert damaged == [("sandboxes", sandbox(3).id)]
    assert [record.fields["row"] for record in caplog.records] == [sandbox(3).id]  # type: ignore[attr-defined]


def test_fields_of_another_version_are_kept(whole: Path) -> None:
    with edited(whole) as connection:
        for table in ("sandboxes", "snapshots"):
            connection.execute(f"update {table} set doc = json_insert(doc, '$.colour', 'red')")
        connection.execute("update keys set limits = json_insert(limits, '$.colour', 'red')")
    with opened(whole) as store:
        stored, taken = store.sandboxes()[0], store.snapshots()[0]
        assert stored.metadata == {"number": "0"}
        assert stored.others == taken.others == {"colour": "red"}
        store.put(stored)
        store.put_snapshot(taken)
        assert len(store.all_keys()) == COUNT and not store.damaged
    with edited(whole) as connection:
        for table in ("sandboxes", "snapshots"):
            (document,) = connection.execute(f"select doc from {table} limit 1").fetchone()
            assert json.loads(document)["colour"] == "red"


def test_a_database_of_a_version_without_digests_gets_them(whole: Path) -> None:
    expected = content(whole)
    with edited(whole) as connection:
        connection.executescript("drop table digests; pragma user_version=0;")
        triggers = connection.execute("select name from sqlite_master where type = 'trigger'")
        for (name,) in triggers.fetchall():
            connection.execute(f"drop trigger {name}")
    assert content(whole) == expected
    with edited(whole) as connection:
        connection.execute("update sandboxes set state = 'running' where id = ?", (sandbox(0).id,))
        assert connection.execute("pragma user_version").fetchone() == (SCHEMA,)


def test_a_newer_database_is_refused_and_left_as_it_is(whole: Path) -> None:
    with edited(whole) as connection:
        connection.execute(f"pragma user_version={SCHEMA + 1}")
    before = whole.read_bytes()
    with pytest.raises(StateError, match="newer"):
        Store(whole)
    assert whole.read_bytes() == before


def test_a_fact_outlives_the_damage_of_its_row(whole: Path) -> None:
    with opened(whole) as store:
        secret = store.secret()
    with edited(whole) as connection:
        digests = connection.execute("select * from digests where kind = 'facts'").fetchall()
        connection.execute("update facts set value = 'abcd' where name = 'secret'")
        connection.executemany("insert or replace into digests values (?, ?, ?)", digests)
    with opened(whole) as store:
        assert store.secret() == secret
    with opened(whole) as store:
        assert not store.damaged and store.secret() == secret


def test_a_secret_that_is_none_is_taken_from_its_copy(whole: Path) -> None:
    with opened(whole) as store:
        secret = store.secret()
    with edited(whole) as connection:
        connection.execute("update facts set value = 'zz' where name = 'secret'")
    with opened(whole) as store:
        assert store.secret() == secret


def test_a_key_whose_times_are_text_costs_that_key(whole: Path) -> None:
    with opened(whole) as store:
        before = store.all_keys()
    with edited(whole) as connection:
        connection.execute("insert into keys values ('zz', 'n', 'h', 'm', '{}', 'abc', null)")
    with opened(whole) as store:
        assert store.all_keys() == before


def garbage(path: Path) -> None:
    path.write_bytes(random.Random(1).randbytes(20000))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:9000])


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("damage", "command", "code"),
    [
        (garbage, ("--substrate", "noop", "--port", "0"), StateError.exit_code),
        (cut, ("keys",), StateError.exit_code),
        (directory, ("--substrate", "noop", "--port", "0"), PathError.exit_code),
    ],
)
def test_what_is_no_database_is_one_error_with_its_exit_code(
    whole: Path, damage: Callable[[Path], None], command: Sequence[str], code: int
) -> None:
    damage(whole)
    before = whole.read_bytes() if whole.is_file() else b""
    argv = (sys.executable, "-m", "harness.cli", "gateway", *command, "--state", str(whole.parent))
    done = subprocess.run(argv, capture_output=True, timeout=120)
    error = done.stderr.decode()
    assert done.returncode == code, error
    assert str(whole) in error and "Traceback" not in error
    assert "--state" in error or ".recover" in error
    assert (whole.read_bytes() if whole.is_file() else b"") == before


def fill(directory: Path) -> None:
    with (directory / "filler").open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass


def test_a_full_disk_is_one_error_and_loses_nothing(whole: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "none", str(small)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting needs root")
    try:
        path = small / FILE
        shutil.copy(whole, path)
        with opened(path) as store:
            fill(small)
            with pytest.raises(DiskFull, match="no space left"):
                for number in range(COUNT, 1000):
                    store.put(sandbox(number))
            kept = store.sandboxes()
            assert kept[:COUNT] == [sandbox(number) for number in range(COUNT)]
        fill(small)
        with pytest.raises(DiskFull):
            Store(path)
        (small / "filler").unlink()
        with opened(path) as store:
            assert store.sandboxes() == kept and not store.damaged
            store.put(sandbox(999))
    finally:
        subprocess.run(["umount", "-l", small], check=True)


def killed_with_a_log(path: Path) -> Path:
    """A database whose last changes are in its log alone, as after a kill."""
    with opened(path) as store:
        for number in range(COUNT):
            store.put(sandbox(number))
        copy = path.parent.parent / "killed" / FILE
        copy.parent.mkdir()
        for end in ("", "-wal"):
            shutil.copy(f"{path}{end}", f"{copy}{end}")
    return copy


def test_a_damaged_log_is_noticed(tmp_path: Path) -> None:
    path = killed_with_a_log(tmp_path / "own" / FILE)
    log = Path(f"{path}-wal")
    data = log.read_bytes()
    assert len(data) > 8000 and log_damage(path) == ""
    flips = random.Random(28)
    for _ in range(FLIPS):
        at = flips.randrange(len(data))
        log.write_bytes(data[:at] + bytes([data[at] ^ 1 << flips.randrange(8)]) + data[at + 1 :])
        frame = (at - 32) % (24 + 4096)
        harmless = 16 <= at < 24 or (at >= len(data) - 4120 and 8 <= frame < 16)
        assert log_damage(path) or harmless, f"byte {at} is not noticed"
    log.write_bytes(data[: len(data) - 100])
    assert log_damage(path) == "", "a change that a kill cut off was never confirmed"
    assert database.log_damage(tmp_path / "nothing") == ""


def test_a_repaired_row_has_its_save_again(tmp_path: Path) -> None:
    """Of a sandbox and of a snapshot, repaired by hand; nothing is put back outside the state."""

    async def begin() -> tuple[set[str], set[str]]:
        with opened(tmp_path / FILE) as store:
            own = Sandboxes(NoopFleet(), store, tmp_path, Metrics())
            await own.open()
            await own.close()
            return set(own.by_id), {taken.id for taken in store.snapshots()}

    asyncio.run(begin())
    saved, outside = tmp_path / "saved", tmp_path / ".lost-outside"
    outside.mkdir()
    paused = dataclasses.replace(sandbox(1), saved=str(saved / "i1"))
    taken = dataclasses.replace(snapshot(2), directory=str(saved / "s2"))
    stranger = dataclasses.replace(sandbox(3), saved=str(tmp_path / "outside"))
    with opened(tmp_path / FILE) as store:
        store.put(paused)
        store.put_snapshot(taken)
    for name in ("i1", "s2"):
        (saved / name).mkdir()
        (saved / name / "content").write_text(name, encoding="utf-8")
    with edited(tmp_path / FILE) as connection:
        connection.execute("update sandboxes set doc = '?' || doc")
        connection.execute("update snapshots set doc = '?' || doc")
    assert asyncio.run(begin()) == (set(), set())
    assert {entry.name for entry in saved.iterdir()} == {".lost-i1", ".lost-s2"}
    with edited(tmp_path / FILE) as connection:
        connection.execute("update sandboxes set doc = substr(doc, 2)")
        connection.execute("update snapshots set doc = substr(doc, 2)")
    with opened(tmp_path / FILE) as store:
        store.put(stranger)
    assert asyncio.run(begin()) == ({paused.id}, {taken.id})
    assert {
        entry.name: (entry / "content").read_text(encoding="utf-8") for entry in saved.iterdir()
    } == {
        "i1": "i1",
        "s2": "s2",
    }
    assert outside.is_dir()


def test_saves_that_a_damaged_database_may_have_forgotten_are_kept(tmp_path: Path) -> None:
    async def begin(damaged: bool) -> None:
        with opened(tmp_path / FILE) as store:
            if damaged:
                store.damaged.add(("log", "page 2 of 3 is damaged"))
            own = Sandboxes(NoopFleet(), store, tmp_path, Metrics())
            await own.open()
            await own.close()

    saved = tmp_path / "saved"
    asyncio.run(begin(damaged=False))
    (saved / "i1-forgotten").mkdir()
    asyncio.run(begin(damaged=True))
    asyncio.run(begin(damaged=False))
    assert [entry.name for entry in saved.iterdir()] == [".lost-i1-forgotten"]
    (saved / "i2-unneeded").mkdir()
    asyncio.run(begin(damaged=False))
    assert len(list(saved.iterdir())) == 1
    (saved / "i3-whose-database-is-gone").mkdir()
    (tmp_path / FILE).unlink()
    for _ in range(2):
        with pytest.raises(StateError, match="is new, but there are 1 saved"):
            asyncio.run(begin(damaged=False))
    assert (saved / "i3-whose-database-is-gone").is_dir()

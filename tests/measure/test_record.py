"""The run record: round trips, refused records, and incomplete files."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.errors import DiskFull, RecordError, UnknownSchema
from harness.measure import record
from harness.measure.endpoint_facts import EndpointFacts
from tests.measure.factory import RUN_ID, run_record, series


def test_a_record_is_read_back_as_written(tmp_path: Path) -> None:
    written = run_record()
    path = record.write(written, tmp_path)
    assert path == tmp_path / "a-machine" / f"{RUN_ID}.cold-start.run.json"
    loaded = record.load(path)
    assert loaded.to_json() == written.to_json()
    assert list(loaded.series[0].samples) == [0.1, 0.30000000000000004, 0.2]
    assert loaded.series[0].failures == written.series[0].failures
    assert loaded.series[0].dimensions["pinned"] is False
    assert loaded.machine.class_ == "virtual-machine"
    assert path.stat().st_mode & 0o777 == 0o644


def test_null_is_distinct_from_absent_and_zero(tmp_path: Path) -> None:
    loaded = record.load(record.write(run_record(git=record.Git(None, None)), tmp_path))
    assert loaded.git == record.Git(None, None)
    assert loaded.machine.before["governor"] is None
    assert "swap_in_bytes" not in loaded.machine.before


def test_a_record_that_proves_function_alone_says_so_and_no_other_does(tmp_path: Path) -> None:
    """Were it lost on the way to the file, times of an emulator would be taken for a machine's."""
    machine = run_record().machine
    emulated = dataclasses.replace(machine, function_only="an emulator's clock")
    written = record.write(run_record(machine=emulated), tmp_path)
    assert record.load(written).machine.function_only == "an emulator's clock"
    assert "function_only" not in run_record().to_json()["machine"]
    assert record.RunRecord.from_json(run_record().to_json()).machine.function_only is None


def test_the_service_that_was_measured_is_on_the_record_and_nowhere_else(tmp_path: Path) -> None:
    facts = EndpointFacts(
        "cluster", "cubesandbox", "https://api.example.org",
        told={"template": "base", "price_an_hour": 0.1}, answered={"server": "envoy"},
        unknown=("machine",), not_offered={"fork": "404 page not found"},
        limits={"sandboxes": 10, "creations_a_second": 2.0},
    )  # fmt: skip
    loaded = record.load(record.write(run_record(endpoint=facts), tmp_path))
    assert loaded.endpoint == dataclasses.replace(facts, unknown=["machine"])
    assert "endpoint" not in run_record().to_json()
    wrong = dataclasses.replace(facts, told={"machine": ["two"]})  # type: ignore[dict-item]
    with pytest.raises(RecordError, match="told"):
        record.write(run_record(endpoint=wrong), tmp_path / "other")


def test_a_failure_says_of_what_kind_it_is_where_it_is_not_a_plain_one(tmp_path: Path) -> None:
    several = [record.Failure(0, "broken"), record.Failure(1, "429 too many", "refused")]
    loaded = record.load(
        record.write(run_record(series=[series(samples=[], failures=several)]), tmp_path)
    )
    assert list(loaded.series[0].failures) == several
    assert "kind" not in loaded.to_json()["series"][0]["failures"][0]


@pytest.mark.parametrize("schema", ["coppice.run/2", "pyperf", None, 1])
def test_an_unknown_schema_is_refused(tmp_path: Path, schema: object) -> None:
    path = record.write(run_record(), tmp_path)
    data = json.loads(path.read_text(encoding="utf-8")) | {"schema": schema}
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(UnknownSchema, match=r"this harness reads only 'coppice\.run/1'") as caught:
        record.load(path)
    assert str(path) in str(caught.value)
    assert caught.value.hint and "newer harness" in caught.value.hint


@pytest.mark.parametrize("text", ["[]", "null", '"coppice.run/1"', "{}"])
def test_json_that_is_not_a_record_is_refused(text: str) -> None:
    with pytest.raises(UnknownSchema):
        record.parse(text)


def test_a_truncated_record_is_refused_with_its_name(tmp_path: Path) -> None:
    path = record.write(run_record(), tmp_path)
    whole = path.read_bytes()
    for length in (0, 1, len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:length])
        with pytest.raises(RecordError, match="perhaps half-written") as caught:
            record.load(path)
        assert str(path) in str(caught.value)


def test_a_missing_record_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"none\.run\.json cannot be read: No such file"):
        record.load(tmp_path / "none.run.json")


def _without(key: str) -> Callable[[dict[str, Any]], None]:
    return lambda data: data.pop(key)


def _with(where: str, key: str, value: object) -> Callable[[dict[str, Any]], None]:
    return lambda data: data[where].__setitem__(key, value)


@pytest.mark.parametrize(
    "spoil",
    [
        _without("validity"),
        _without("clock"),
        _with("rig", "sha256", "short"),
        _with("machine", "class", "toaster"),
        _with("machine", "cores", 0),
        _with("git", "extra", 1),
        lambda data: data["series"][0]["samples"].append("0.1"),
        lambda data: data["series"][0]["samples"].append(None),
        lambda data: data["series"][0]["samples"].append(True),
        lambda data: data["series"][0]["warmup"].append("0.1"),
        lambda data: data["series"][0].pop("samples"),
        lambda data: data["series"][0].__setitem__("unit", "ms"),
        lambda data: data.__setitem__("run_id", "yesterday"),
        lambda data: data["machine"]["before"].__setitem__("nested", {}),
    ],
)
def test_data_that_violates_the_schema_is_refused(spoil: Callable[[dict[str, Any]], None]) -> None:
    data = run_record().to_json()
    record.check(data)
    spoil(data)
    with pytest.raises(RecordError, match="not a valid run record"):
        record.check(data)


def test_two_series_with_the_same_name_are_refused(tmp_path: Path) -> None:
    same = series(dimensions={"tier": None, "pinned": False, "concurrency": 1, "substrate": "noop"})
    with pytest.raises(RecordError, match="two series of the same name"):
        record.write(run_record(series=(series(), same)), tmp_path)
    other = series(dimensions={"substrate": "noop", "concurrency": 10})
    record.write(run_record(series=(series(), other)), tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_json_lacks_are_neither_written_nor_read(tmp_path: Path, value: float) -> None:
    with pytest.raises(RecordError, match="not plain data"):
        record.write(run_record(series=(series(samples=(value,)),)), tmp_path)
    assert not list(tmp_path.rglob("*.json"))
    text = json.dumps(run_record().to_json()).replace("0.30000000000000004", json.dumps(value))
    with pytest.raises(RecordError, match="is not a JSON number"):
        record.parse(text)


def test_a_record_is_never_overwritten(tmp_path: Path) -> None:
    path = record.write(run_record(), tmp_path)
    before = path.read_bytes()
    with pytest.raises(RecordError, match="never overwritten"):
        record.write(run_record(profile="full"), tmp_path)
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_find_returns_only_complete_records_of_machines(tmp_path: Path) -> None:
    later = dataclasses.replace(run_record(), run_id="20260102T030406Z-00000000")
    paths = [record.write(run_record(), tmp_path), record.write(later, tmp_path)]
    (tmp_path / "published").mkdir()
    (tmp_path / "published" / "x.run.json").write_text("{}", encoding="utf-8")
    (tmp_path / "a-machine" / ".half-written-x").write_text("{", encoding="utf-8")
    (tmp_path / "a-machine" / "benchmark.json").write_text("{}", encoding="utf-8")
    assert list(record.find(tmp_path)) == paths
    assert list(record.find(tmp_path / "nowhere")) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root: sudo -E pytest tests/measure")
    directory = tmp_path / "small"
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "coppice-test", str(directory)]
    tried = subprocess.run(mount, capture_output=True, text=True, encoding="utf-8")
    if tried.returncode:
        pytest.skip(f"cannot mount a tmpfs on this host: {tried.stderr.strip()}")
    try:
        yield directory
    finally:
        subprocess.run(["umount", str(directory)], check=True)


def test_a_full_disk_leaves_no_partial_file(small_disk: Path) -> None:
    big = run_record(series=(series(samples=tuple(n / 7 for n in range(8000))),))
    with pytest.raises(DiskFull, match="no space left to write") as caught:
        record.write(big, small_disk)
    assert caught.value.hint and "--results" in caught.value.hint
    assert [path for path in small_disk.rglob("*") if path.is_file()] == []
    # A small one fits: the failure has freed its space.
    record.load(record.write(run_record(), small_disk))


def test_what_is_written_is_on_the_disk_before_it_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First the file, so that its name never stands for nothing; then the directory with the
    name, without which a crash of the host takes a record away that was said to be there."""
    synced: list[tuple[int, bool]] = []

    def fsync(handle: int) -> None:
        synced.append((os.fstat(handle).st_ino, any(record.find(tmp_path))))
        real(handle)

    real = os.fsync
    monkeypatch.setattr(os, "fsync", fsync)
    path = record.write(run_record(), tmp_path)
    assert synced == [(path.stat().st_ino, False), (path.parent.stat().st_ino, True)]


_KILLED = """
import os, signal, sys
from pathlib import Path
from harness.measure import record
from tests.measure.factory import run_record

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[2] == "write":
    real = os.fdopen
    class Half:
        def __init__(self, file): self.file = file
        def __enter__(self): return self
        def __exit__(self, *_): pass
        def write(self, content):
            self.file.write(content[: len(content) // 2])
            self.file.flush()
            die()
    os.fdopen = lambda *a: Half(real(*a))
else:
    setattr(os, sys.argv[2], die)
record.write(run_record(), Path(sys.argv[1]))
"""


@pytest.mark.parametrize("moment", ["write", "fsync", "fchmod", "link"])
def test_a_killed_writer_leaves_no_record(tmp_path: Path, moment: str) -> None:
    child = [sys.executable, "-c", _KILLED, str(tmp_path), moment]
    here = Path(__file__).parents[2]
    assert subprocess.run(child, cwd=here).returncode == -signal.SIGKILL
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(left) == 1 and left[0].name.startswith(".half-written-")
    assert list(record.find(tmp_path)) == []
    # The run can be written again despite what was left.
    again = record.write(run_record(), tmp_path)
    assert list(record.find(tmp_path)) == [again]

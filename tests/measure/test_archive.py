"""`coppice archive`: superseded records move with their digests, the index names every record, and
nothing is edited or lost."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from harness.commands import archive as command
from harness.errors import RecordError
from harness.measure import archive, benchmark_files
from harness.measure.record import RunRecord, Validity, digest, find, load, write
from harness.measure.record_digests import INDEX
from harness.measure.selection import located
from tests.measure.factory import run_record, series

HOST = run_record().machine.id


def run(day: int, metric: str = "a") -> RunRecord:
    return run_record(
        run_id=f"202601{day:02d}T000000Z-{day:08x}",
        series=(series(metric=metric, dimensions={"day": 1}),),
        validity=Validity("valid"),
    )


def benchmarks(directory: Path, *records: Path) -> Path:
    """What pytest-benchmark writes about these records."""
    rows = [
        {"name": "test", "stats": {"data": [number]},
         "extra_info": {"record": path.name, "record_sha256": digest(path)}}
        for number, path in enumerate(records)
    ]  # fmt: skip
    file = directory / "benchmark.json"
    file.write_text(
        json.dumps({"machine_info": {}, "benchmarks": rows}, indent=4), encoding="utf-8"
    )
    return file


def put_in_order(results: Path, *options: str) -> None:
    import argparse

    parser = argparse.ArgumentParser()
    command.arguments(parser)
    assert command.main(parser.parse_args([*options, "--results", str(results)])) == 0


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Two runs of one series, and one of another, stored by one session."""
    results = tmp_path / "results"
    made = [write(one, results) for one in (run(1), run(2), run(3, "b"))]
    benchmark_files.store(benchmarks(tmp_path, *made), results)
    return results


def names(results: Path) -> set[str]:
    return {path.relative_to(results).as_posix() for path in results.rglob("*") if path.is_file()}


def rows(results: Path) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads((results / INDEX).read_bytes())["records"]
    return found


def test_each_record_has_its_part_of_a_session_beside_it(results: Path) -> None:
    for path in find(results):
        beside = path.with_name(path.name.replace(".run.json", ".pytest-benchmark.json"))
        (one,) = json.loads(beside.read_bytes())["benchmarks"]
        assert one["extra_info"] == {"record": path.name, "record_sha256": digest(path)}


def test_a_superseded_record_moves_with_its_digest_and_is_found_as_before(results: Path) -> None:
    before = {path.name: path.read_bytes() for path in find(results)}
    put_in_order(results)
    after = list(find(results))
    assert {path.name: path.read_bytes() for path in after} == before
    gone = [path for path in after if path.is_relative_to(results / "archive" / HOST)]
    assert [path.name[:8] for path in gone] == ["20260101"]
    # In one order with the others of its machine, and by the same selectors.
    assert [path.name[:8] for path in after] == ["20260101", "20260102", "20260103"]
    assert [path for path, *_ in located("20260101T000000Z", results)] == gone
    assert len(located("day=1", results)) == 3
    (results / INDEX).unlink()
    gone[0].write_text(gone[0].read_text(encoding="utf-8").replace("0.5", "0.75"), encoding="utf-8")
    with pytest.raises(RecordError, match="was changed after it was written"):
        load(gone[0])


def test_the_index_says_what_each_record_is_and_what_superseded_it(results: Path) -> None:
    put_in_order(results)
    first, second, third = rows(results)
    assert first["path"] == f"archive/{HOST}/20260101T000000Z-00000001.cold-start.run.json"
    assert first["sha256"] == digest(results / str(first["path"]))
    assert (first["state"], first["superseded_by"], first["changed"]) == (
        "superseded", ["20260102T000000Z-00000002"], [],
    )  # fmt: skip
    assert second["state"] == third["state"] == "current" and "changed" not in second
    assert {key: third[key] for key in ("machine", "rig", "day", "validity", "series")} == {
        "machine": HOST, "rig": "cold-start", "day": "2026-01-03", "validity": "valid",
        "series": {"b": 1},
    }  # fmt: skip


def test_a_second_time_changes_nothing_and_a_dry_run_never_does(results: Path) -> None:
    before = names(results)
    put_in_order(results, "--dry-run")
    assert names(results) == before
    put_in_order(results)
    after = {name: (results / name).stat().st_mtime_ns for name in names(results)}
    put_in_order(results)
    assert {name: (results / name).stat().st_mtime_ns for name in names(results)} == after
    plan = archive.plan(results)
    assert (plan.moves, plan.named, plan.problems, plan.indexed) == ([], [], [], True)


def test_a_record_that_is_superseded_no_more_comes_back(results: Path) -> None:
    put_in_order(results)
    (newer,) = results.glob("*/20260102T*.run.json")
    newer.unlink()
    put_in_order(results)
    assert [path.parent.name for path in find(results)] == [HOST, HOST]
    assert not [name for name in names(results) if name.startswith("archive/")]


def test_files_of_earlier_versions_are_divided_among_their_records(
    results: Path, tmp_path: Path
) -> None:
    records = list(find(results))
    for file in results.rglob("*.pytest-benchmark.json"):
        file.unlink()
    old = benchmarks(tmp_path, *records[:2])
    old = old.rename(records[0].with_name(f"{digest(old)}.pytest-benchmark.json"))
    damaged = old.with_name(f"{'0' * 64}.pytest-benchmark.json")
    damaged.write_text(old.read_text(encoding="utf-8"), encoding="utf-8")
    put_in_order(results)
    assert not old.exists() and damaged.exists()
    beside = sorted(path.name[:8] for path in results.rglob("2026*.pytest-benchmark.json"))
    assert beside == ["20260101", "20260102"]


def test_what_cannot_be_read_stays_and_is_named(
    results: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (results / HOST / "half.run.json").write_text("{", encoding="utf-8")
    put_in_order(results)
    assert "half.run.json is not JSON" in capsys.readouterr().err
    assert (results / HOST / "half.run.json").exists() and len(rows(results)) == 3


def test_an_interrupted_move_is_finished_by_the_next(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = results.with_name("whole")
    for one in (run(1), run(2), run(3, "b")):
        write(one, whole)
    put_in_order(whole)
    left = [0]

    def killed(self: Path, target: Path) -> Path:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        return rename(self, target)

    rename = Path.rename
    for moved in (0, 1):
        left[0] = moved
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(Path, "rename", killed)
            put_in_order(results)
        assert len(list(find(results))) == 3
    put_in_order(results)
    plain = {name for name in names(results) if not name.endswith(".pytest-benchmark.json")}
    assert plain == names(whole)


def test_the_index_finds_a_changed_record_that_has_no_other_digest(tmp_path: Path) -> None:
    results = tmp_path / "results"
    path = write(run(1), results)
    put_in_order(results)
    assert load(path)
    path.write_text(path.read_text(encoding="utf-8").replace("0.5", "0.75"), encoding="utf-8")
    with pytest.raises(RecordError, match=r"or index\.json was: index\.json has another"):
        load(path)


def test_two_files_of_one_run_are_left_alone(results: Path) -> None:
    first = next(iter(find(results)))
    copy = results / "archive" / "other" / first.name
    copy.parent.mkdir(parents=True)
    copy.write_bytes(first.read_bytes())
    plan = archive.plan(results)
    assert [problem for problem in plan.problems if "of the same run" in problem]
    assert len(plan.records) == 3


def test_a_run_moves_nothing(results: Path, tmp_path: Path) -> None:
    before = names(results)
    path = write(replace(run(4), series=run(1).series), results)
    benchmark_files.store(benchmarks(tmp_path, path), results)
    assert names(results) - before == {
        f"{HOST}/{path.name}",
        f"{HOST}/{path.name.replace('.run.json', '.pytest-benchmark.json')}",
    }
    assert before <= names(results)

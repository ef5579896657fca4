"""The page of a superseded run says by which runs; a build from nothing says the same."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from harness.commands import archive
from harness.measure import record
from harness.measure.record import Git, RunRecord
from harness.site.builder.build import build
from tests.site import factory
from tests.site.test_build import files

CURRENT = '<p id="later"></p>'


def run(day: int, **changes: object) -> RunRecord:
    made = factory.cold_start("full", day=day, n=6, seed="s")
    fixed = {"rig": factory.cold_start("full").rig, "images": factory.cold_start("full").images}
    return dataclasses.replace(made, **{**fixed, **changes})  # type: ignore[arg-type]


def page(out: Path, one: RunRecord) -> str:
    (path,) = out.glob(f"runs/*/{one.run_id.lower()}*.html")
    return path.read_text(encoding="utf-8")


def put_in_order(results: Path) -> None:
    import argparse

    parser = argparse.ArgumentParser()
    archive.arguments(parser)
    archive.main(parser.parse_args(["--results", str(results)]))


@pytest.fixture
def old() -> RunRecord:
    return run(1, git=Git("a" * 40, False))


@pytest.fixture
def new(old: RunRecord) -> RunRecord:
    host = dataclasses.replace(old.machine, kernel="6.12-later (test)")
    return run(2, git=Git("b" * 40, False), machine=host)


def test_a_record_that_comes_later_changes_the_page_of_the_one_it_supersedes(
    tmp_path: Path, old: RunRecord, new: RunRecord
) -> None:
    results, out = tmp_path / "results", tmp_path / "out"
    record.write(old, results)
    build(results, out)
    assert CURRENT in page(out, old)
    record.write(new, results)
    build(results, out)
    text = page(out, old)
    assert CURRENT not in text and CURRENT in page(out, new)
    assert f'href="{new.run_id.lower()}-cold-start.html"' in text
    assert "the commit, from aaaaaaaa to bbbbbbbb" in text
    assert "the kernel, from 6.1.0-test to 6.12-later (test)" in text
    assert "the rig" not in text.partition('<p id="later">')[2].partition("</p>")[0]
    build(results, tmp_path / "fresh")
    assert files(out) == files(tmp_path / "fresh")
    named = json.loads((out / "index.json").read_text(encoding="utf-8"))["records"]
    assert [one["superseded_by"] for one in named] == [[new.run_id], None]
    assert "#later" in (out / f"machines/{factory.HOST}.html").read_text(encoding="utf-8")


def test_a_run_that_is_only_newer_is_said_to_be(tmp_path: Path, old: RunRecord) -> None:
    for one in (old, run(2, git=old.git)):
        record.write(one, tmp_path / "results")
    build(tmp_path / "results", tmp_path / "out")
    assert "Nothing had changed by then" in page(tmp_path / "out", old)


def test_an_archived_record_keeps_its_page_and_comes_back_once_it_is_current_again(
    tmp_path: Path, old: RunRecord, new: RunRecord
) -> None:
    results, out = tmp_path / "results", tmp_path / "out"
    record.write(old, results)
    later = record.write(new, results)
    build(results, out)
    before = files(out)
    put_in_order(results)
    assert list((results / "archive").rglob("*.run.json"))
    built = build(results, out)
    assert (built.records, built.problems) == (2, ())
    after = files(out)
    assert {path for path in after if after[path] != before.get(path)} == {".coppice-site"}
    assert before.keys() == after.keys()
    later.unlink()
    build(results, out)
    assert CURRENT in page(out, old)
    build(results, tmp_path / "fresh")
    assert files(out) == files(tmp_path / "fresh")

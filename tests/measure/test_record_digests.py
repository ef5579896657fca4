"""A record that was changed after it was written is refused by name."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest

from harness import results as frames
from harness.errors import RecordError, UsageError
from harness.measure.record import digest, find, load
from harness.measure.record_digests import beside
from harness.measure.selection import select
from harness.paths import PUBLISHED
from harness.site.data import corpus
from tests.commands.tools import ROOT

FLIPS = 300


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A committed record with the file of pytest-benchmark that has its digest."""
    for path in find(ROOT / "results"):
        if beside(path).exists() and path.stat().st_size < 20_000:
            home = tmp_path / "results" / path.parent.name
            home.mkdir(parents=True)
            shutil.copy(beside(path), home)
            return Path(shutil.copy(path, home))
    raise AssertionError("no committed record has its digest beside it")


def named_by_digest(stored: Path) -> Path:
    """The file beside a record, under the name that earlier versions gave it."""
    file = beside(stored)
    return file.rename(file.with_name(f"{digest(file)}.pytest-benchmark.json"))


def change_sample(path: Path) -> None:
    """Change one digit of the first sample; the record stays a valid record."""
    data = json.loads(path.read_bytes())
    data["series"][0]["samples"][0] *= 1.0001
    path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def test_what_was_written_is_accepted(stored: Path) -> None:
    assert load(stored).run_id == stored.name[:25]


def test_every_flipped_bit_is_found(stored: Path) -> None:
    content = stored.read_bytes()
    rng = random.Random(16)
    for at in rng.sample(range(8 * len(content)), FLIPS):
        changed = bytearray(content)
        changed[at // 8] ^= 1 << at % 8
        stored.write_bytes(changed)
        with pytest.raises(RecordError, match=stored.name):
            load(stored)
    stored.write_bytes(content)
    assert load(stored)


def test_the_site_names_a_changed_record(stored: Path) -> None:
    change_sample(stored)
    found = corpus.load(stored.parent.parent, PUBLISHED)
    assert not found.entries
    (problem,) = found.problems
    assert stored.name in problem.error and "was changed after it was written" in problem.error


def test_the_frame_leaves_a_changed_record_out(stored: Path) -> None:
    change_sample(stored)
    with pytest.raises(RecordError, match="was changed"):
        frames.load(str(stored))
    with pytest.warns(frames.RecordSkipped, match="was changed"):
        assert frames.load(str(stored), errors="skip").empty


def test_a_comparison_names_the_record_that_it_leaves_out(
    stored: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rig = load(stored).rig.id
    change_sample(stored)
    with pytest.raises(UsageError, match="no record matches"):
        select(f"rig={rig}", stored.parent.parent)
    assert f"left out: {stored} was changed" in caplog.text


def test_a_damaged_witness_is_named(stored: Path) -> None:
    text = beside(stored).read_text(encoding="utf-8")
    sha256 = digest(stored)
    assert sha256 in text
    beside(stored).write_text(text.replace(sha256, "0" * 64), encoding="utf-8")
    with pytest.raises(RecordError, match=f"or {beside(stored).name} was"):
        load(stored)


def test_a_damaged_witness_that_agrees_does_no_harm(stored: Path) -> None:
    beside(stored).write_text(beside(stored).read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert load(stored)


def test_a_witness_whose_name_is_its_digest_is_known_to_be_damaged(stored: Path) -> None:
    file = named_by_digest(stored)
    file.write_text(
        file.read_text(encoding="utf-8").replace(digest(stored), "0" * 64), encoding="utf-8"
    )
    with pytest.raises(RecordError, match=f"{file.name}.* is damaged"):
        load(stored)


def test_a_witness_whose_name_is_its_digest_is_known_to_be_intact(stored: Path) -> None:
    file = named_by_digest(stored)
    change_sample(stored)
    with pytest.raises(RecordError, match=f"after it was written: {file.name}"):
        load(stored)


def test_a_witness_that_agrees_counts_more_than_another(stored: Path) -> None:
    other = beside(stored).with_name(f"{'f' * 64}.pytest-benchmark.json")
    other.write_text(
        beside(stored).read_text(encoding="utf-8").replace(digest(stored), "0" * 64),
        encoding="utf-8",
    )
    assert load(stored)


def test_a_record_without_a_witness_is_read(stored: Path) -> None:
    beside(stored).unlink()
    change_sample(stored)
    assert load(stored)

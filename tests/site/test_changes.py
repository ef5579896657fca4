"""The changelog of results names what came each day, and what that moved."""

from __future__ import annotations

import dataclasses
import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from harness.claims.verdict import Verdict
from harness.measure import record
from harness.measure.record import RunRecord, Validity
from harness.paths import PUBLISHED
from harness.site.builder.build import build
from harness.site.data import evidence
from harness.site.data.changelog import Day, Move, day_of, days
from harness.site.data.corpus import Corpus, load
from tests.site import factory

CLAIM = "coppice-cold-start"
TIER = "durable-prewarm-pool"
UNMEASURED = str(Verdict.NOT_MEASURED)


def run(day: int, factor: float = 1.0, **more: object) -> RunRecord:
    made = factory.cold_start(TIER, day=day, n=40, **more)  # type: ignore[arg-type]
    series = [
        dataclasses.replace(one, samples=[factor * value for value in one.samples])
        for one in factory.cold_start(TIER, day=1, n=40).series
    ]
    return dataclasses.replace(made, series=tuple(series))


def corpus(tmp_path: Path, *records: RunRecord) -> Corpus:
    for one in records:
        record.write(one, tmp_path / "results")
    return load(tmp_path / "results", PUBLISHED)


def of_claim(found: Day) -> list[Move]:
    return [one for one in found.moves if one.claim.id == CLAIM]


def test_the_first_record_of_a_claim_moves_it_and_an_equal_one_does_not(tmp_path: Path) -> None:
    found = corpus(tmp_path, run(1), run(2))
    assert days(found) == ["2026-11-02", "2026-11-01"]
    (first,) = of_claim(day_of(found, "2026-11-01"))
    assert first.before.verdict == UNMEASURED and first.after.verdict != UNMEASURED
    assert first.turned and first.factor is None
    assert day_of(found, "2026-11-02").moves == []
    assert day_of(found, "2026-11-02").count == 1


def test_a_figure_that_moved_is_named_with_its_factor_and_records(tmp_path: Path) -> None:
    found = corpus(tmp_path, run(1), run(2, 2.0), run(3, 2.1))
    (moved,) = of_claim(day_of(found, "2026-11-02"))
    assert moved.factor == pytest.approx(2.0)
    assert moved.before.entry and moved.before.entry.date == "2026-11-01"
    assert moved.after.entry and moved.after.entry.date == "2026-11-02"
    assert of_claim(day_of(found, "2026-11-03")) == [], "a twentieth is no move"


def test_the_last_day_ends_with_the_verdicts_of_the_site(tmp_path: Path) -> None:
    found = corpus(tmp_path, run(1), run(2, 500.0))
    (moved,) = of_claim(day_of(found, "2026-11-02"))
    claim = moved.claim
    judged = evidence.deciding(evidence.judged(found, claim, factory.HOST))
    assert judged and moved.after.verdict == str(judged.finding.verdict)
    assert moved.after.estimate == judged.finding.estimate


def test_another_machine_and_a_suspect_record_move_nothing_here(tmp_path: Path) -> None:
    other = run(2, 3.0, host=factory.machine("other-host"))
    suspect = run(3, 3.0, validity=Validity("suspect", ("load (test)",)))
    found = corpus(tmp_path, run(1), other, suspect)
    assert {one.machine for one in day_of(found, "2026-11-02").moves} == {"other-host"}
    assert day_of(found, "2026-11-03").moves == []


def test_pages_json_and_feed_name_each_day(tmp_path: Path) -> None:
    suspect = run(2, 2.0, validity=Validity("suspect", ("load (test)",)), seed="s")
    corpus(tmp_path, run(1), run(2, 2.0), suspect)
    out = tmp_path / "out"
    build(tmp_path / "results", out)
    text = (out / "changes.html").read_text(encoding="utf-8")
    assert "2 records, 1 suspect of" in text and 'href="changes/2026-11-01.html"' in text
    assert re.search(r"<td class=\"n\">2\.00</td>", text)
    data = json.loads((out / "changes/2026-11-02.json").read_text(encoding="utf-8"))
    assert len(data["records"]) == 2
    (one,) = (one for one in data["moves"] if one["claim"] == CLAIM)
    assert one["factor"] == pytest.approx(2.0)
    assert one["after"]["value"] == pytest.approx(2 * one["before"]["value"])
    assert (out / one["after"]["record"]).is_file()
    named = json.loads((out / "changes.json").read_text(encoding="utf-8"))["days"]
    assert [(day["day"], day["records"]) for day in named] == [("2026-11-02", 2), ("2026-11-01", 1)]
    atom = {"a": "http://www.w3.org/2005/Atom"}
    titles = ElementTree.parse(out / "changes.xml").findall("a:entry/a:title", atom)
    assert [one.text for one in titles] == [
        "2026-11-02: 2 records, 1 suspect", "2026-11-01: 1 record",
    ]  # fmt: skip

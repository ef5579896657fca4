"""What of a record answers a claim: one series that is named, several pooled, never the noop."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from harness.claims.claims import Answer, Claim
from harness.claims.claims import load as load_claims
from harness.claims.published import load as load_published
from harness.measure import record
from harness.measure.record import RunRecord, Series
from harness.site.builder.build import build
from harness.site.data import corpus, evidence
from harness.site.data.corpus import Corpus, RecordEntry
from harness.site.data.record_summary import fits
from tests.site import factory


def corpus_of(*series: Series) -> Corpus:
    one = dataclasses.replace(factory.cold_start("full", n=1), series=series)
    entry = corpus.entry_of(one)
    return Corpus([entry], (), (), today=entry.date)


def of(value: float, n: int = 8, **dimensions: str) -> Series:
    return Series("endpoint", "1", "higher", dimensions, "closed", (), [value] * n)


def answer(**changed: object) -> Answer:
    base: dict[str, object] = {
        "rig": "cold-start", "metric": "endpoint", "statistic": "sum", "holds": "at-least",
        "comparable": False, "why": "test", "task": "test",
    }  # fmt: skip
    return Answer(**{**base, **changed})  # type: ignore[arg-type]


def test_the_harness_alone_answers_no_claim_of_a_sandbox() -> None:
    both = corpus_of(of(1.0, substrate="noop"), of(2.0, substrate="qemu"))
    found = evidence.find(both, answer(), factory.HOST)
    assert found and found.summary.dimensions["substrate"] == "qemu"
    assert evidence.find(corpus_of(of(1.0, substrate="noop")), answer(), factory.HOST) is None
    asked = answer(where={"substrate": "noop"})
    assert evidence.find(both, asked, factory.HOST)


def test_pooled_takes_every_series_that_fits() -> None:
    several = corpus_of(of(1.0, 3, at="a"), of(0.0, 2, at="b"), of(1.0, 1, at="c"))
    found = evidence.find(several, answer(pooled=True), factory.HOST)
    assert found and found.n == 6 and sum(found.samples) == 4
    one = evidence.find(several, answer(), factory.HOST)
    assert one and one.n == 3 and list(one.samples) == [1.0] * 3


def _two(newer: RunRecord, **known: object) -> tuple[Corpus, RecordEntry]:
    """A record of the second day, after it another one of its machine, and what is known today."""
    older = factory.cold_start("full", n=1, day=2)
    entries = [corpus.entry_of(older), corpus.entry_of(newer, "runs/a/c")]
    return Corpus(entries, (), (), today="2026-11-20", **known), entries[0]  # type: ignore[arg-type]


def test_a_record_is_stale_when_what_it_measured_has_changed() -> None:
    """Each reason alone; nothing else differs, and nothing of it makes it stale."""
    older = factory.cold_start("full", n=1, day=2)
    newer = dataclasses.replace(older, run_id="20261103T120000Z-00000000")
    file, state = older.rig.path, older.rig.sha256

    def why(newer: RunRecord = newer, **known: object) -> list[str]:
        return list(evidence.stale(*_two(newer, **known)))

    assert why() == why(rigs={file: [state]}) == why(rigs={"rigs/other.py": ["0"]}) == []
    # Of a rig's file several states measure alike: the one that it has, and those it names.
    assert why(rigs={file: ["0" * 64, state]}) == []
    assert why(rigs={file: ["0" * 64, "1" * 64]}) == ["the rig has changed since"]
    elsewhere = dataclasses.replace(newer.machine, kernel="6.2.0-test")
    moved = dataclasses.replace(newer, machine=elsewhere)
    assert why(moved) == ["the machine now runs another kernel"]
    other_host = dataclasses.replace(elsewhere, id="other-host")
    assert why(dataclasses.replace(newer, machine=other_host)) == []
    image = dataclasses.replace(newer.images[0], sha256="0" * 64)
    assert why(dataclasses.replace(newer, images=(image,))) == ["the image has changed since"]
    renamed = dataclasses.replace(image, name="another")
    assert why(dataclasses.replace(newer, images=(renamed,))) == []


def test_a_record_is_stale_when_a_patch_that_it_ran_with_has_changed() -> None:
    patch = record.Patch("patches/a/one.diff", "a" * 64, True)
    for applied, now, reasons in (
        (True, "b" * 64, ["the patch patches/a/one.diff has changed since"]),
        (False, "b" * 64, []),
        (True, "a" * 64, []),
    ):
        of = dataclasses.replace(patch, applied=applied)
        entry = corpus.entry_of(dataclasses.replace(factory.cold_start("full", n=1), patches=(of,)))
        known = Corpus([entry], (), (), patches={patch.path: now}, today=entry.date)
        assert list(evidence.stale(known, entry)) == reasons


def test_a_stale_record_does_not_answer_where_a_fresh_one_does() -> None:
    """Although it is of the full profile, and newer."""
    fresh = factory.cold_start("full", n=1, day=1, profile="quick")
    newer = factory.cold_start("full", n=1, day=2, profile="full")
    newer = dataclasses.replace(newer, images=fresh.images)
    entries = [corpus.entry_of(fresh), corpus.entry_of(newer, "runs/a/c")]
    asked = answer(metric="first-reply")
    both = Corpus(entries, (), (), today="2026-11-20")
    found = evidence.find(both, asked, factory.HOST)
    assert found and found.entry is entries[1]
    rigs = {fresh.rig.path: [fresh.rig.sha256]}
    found = evidence.find(dataclasses.replace(both, rigs=rigs), asked, factory.HOST)
    assert found and found.entry is entries[0]


def test_no_answer_picks_one_of_several_series_by_their_order(kept: Path) -> None:
    """Of the records that are kept: a claim names its series, or pools them."""
    figures = load_published(kept / "published")
    known = corpus.load(kept, kept / "published")
    claims: list[Claim] = list(load_claims(figures))
    looked = 0
    for one in (answer for claim in claims for answer in claim.answers if not answer.pooled):
        for entry in known.of_rig(one.rig, known.machine):
            lines = [line for line in entry.summary.series if line.metric == one.metric]
            fitting = [line.name for line in lines if fits(line.dimensions, one.where)]
            assert len(fitting) < 2, (one, entry.place.shown, fitting)
            looked += len(fitting)
    assert looked > 20


def test_a_claim_answered_by_several_series_says_which_one_decides_and_why(tmp_path: Path) -> None:
    pool = factory.cold_start("durable-pool")
    waits = [
        dataclasses.replace(one, dimensions={**one.dimensions, "vmm": "waits"})
        for one in pool.series
    ]
    record.write(dataclasses.replace(pool, series=waits), tmp_path / "results")
    record.write(factory.cold_start("durable-prewarm-pool"), tmp_path / "results")
    build(tmp_path / "results", tmp_path / "out")
    page = (tmp_path / "out/claims/cubesandbox-cold-start.html").read_text()
    assert page.count('class="decides"') == 1
    above, below = page.split('id="answers"')
    assert "the verdict rests on <strong>first-reply, qemu, durable-prewarm-pool" in above
    assert "Our clock includes no HTTP API" in above
    assert "first-exec, qemu, durable-pool" in below.split("</table>")[0]

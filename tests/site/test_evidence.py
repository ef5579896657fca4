"""What of a record answers a claim: one series that is named, several pooled, never the noop."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import date, timedelta
from pathlib import Path

from harness.claims import answering
from harness.claims.claims import Answer
from harness.measure import record
from harness.measure.record import RunRecord, Series
from harness.site.builder.build import build
from harness.site.data import corpus, evidence
from harness.site.data import newest as numbers
from harness.site.data.corpus import Corpus
from harness.site.data.marks import OLD_DAYS, age
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


def marks(*records: RunRecord, today: str = "2026-11-20", **known: object) -> list[str]:
    """What has changed since the first of several records of a machine."""
    entries = [corpus.entry_of(one, f"runs/a/{at}") for at, one in enumerate(records)]
    given: dict[str, dict[str, object]] = {"rigs": {}, "patches": {}}
    first, *_ = corpus.with_marks(entries, today=today, **(given | known))  # type: ignore[arg-type]
    assert all(one.command == first.summary.task for one in first.marks)
    return [one.text for one in first.marks]


def test_a_figure_is_marked_where_what_it_measured_has_changed() -> None:
    """Each reason alone; nothing else differs, and nothing of it marks it."""
    older = factory.cold_start("full", n=1, day=2)
    newer = dataclasses.replace(older, run_id="20261103T120000Z-00000000")
    file, state = older.rig.path, older.rig.sha256
    assert marks(older, newer) == marks(older, newer, rigs={file: [state]}) == []
    assert marks(older, newer, rigs={"rigs/other.py": ["0"]}) == []
    # Of a rig's file several states measure alike: the one that it has, and those it names.
    assert marks(older, newer, rigs={file: ["0" * 64, state]}) == []
    assert marks(older, rigs={file: ["0" * 64, "1" * 64]}) == ["the rig has changed since"]
    elsewhere = dataclasses.replace(newer.machine, kernel="6.2.0-test")
    moved = dataclasses.replace(newer, machine=elsewhere)
    assert marks(older, moved) == ["the machine now runs another kernel"]
    other_host = dataclasses.replace(elsewhere, id="other-host")
    assert marks(older, dataclasses.replace(newer, machine=other_host)) == []
    image = dataclasses.replace(newer.images[0], sha256="0" * 64)
    assert marks(older, dataclasses.replace(newer, images=(image,))) == [
        "the image has changed since"
    ]
    for other in ({"guest_kernel": "slim"}, {"substrate": "kvm-floor"}):
        # Guests of another kind have another image of that name, and replace nothing.
        series = [
            dataclasses.replace(one, dimensions={**one.dimensions, **other}) for one in newer.series
        ]
        assert marks(older, dataclasses.replace(newer, images=(image,), series=series)) == []
    renamed = dataclasses.replace(image, name="another")
    assert marks(older, dataclasses.replace(newer, images=(renamed,))) == []


def test_a_figure_is_marked_where_a_patch_that_it_ran_with_has_changed() -> None:
    patch = record.Patch("patches/a/one.diff", "a" * 64, True)
    for applied, now, texts in (
        (True, "b" * 64, ["the patch patches/a/one.diff has changed since"]),
        (False, "b" * 64, []),
        (True, "a" * 64, []),
    ):
        of = dataclasses.replace(patch, applied=applied)
        one = dataclasses.replace(factory.cold_start("full", n=1), patches=(of,))
        assert marks(one, patches={patch.path: now}) == texts


def test_a_figure_is_marked_from_the_day_after_the_last_that_is_allowed() -> None:
    last = date(2026, 11, 25) - timedelta(days=OLD_DAYS)
    assert age(last.isoformat(), "2026-11-25") is None
    before = last - timedelta(days=1)
    assert age(before.isoformat(), "2026-11-25") == "measured 181 days ago"
    assert OLD_DAYS == 180
    one = factory.cold_start("full", n=1)
    assert marks(one, today="2027-11-01") == ["measured 365 days ago"]


def test_what_has_changed_since_does_not_choose_the_record_that_answers() -> None:
    """The newest of the same series does, although today's rig made the other one."""
    older = factory.cold_start("full", n=1, day=1)
    newer = dataclasses.replace(factory.cold_start("full", n=1, day=2), images=older.images)
    entries = [corpus.entry_of(older), corpus.entry_of(newer, "runs/a/c")]
    asked = answer(metric="first-reply")
    for rigs in ({}, {older.rig.path: [older.rig.sha256]}, {older.rig.path: ["0" * 64]}):
        marked = corpus.with_marks(entries, rigs, {}, "2026-11-20")
        known = Corpus(marked, (), (), rigs=rigs, today="2026-11-20")
        found = evidence.find(known, asked, factory.HOST)
        assert found and found.entry is marked[1]


def test_a_worse_measured_record_supersedes_none() -> None:
    asked = answer(metric="first-reply")
    good = factory.cold_start("full", n=3, day=1)
    suspect = factory.cold_start("full", n=3, day=2, validity=record.Validity("suspect", ("a",)))
    quick = factory.cold_start("full", n=3, day=3, profile="quick")
    again = factory.cold_start("full", n=3, day=4)
    for several, chosen in (((good, suspect), 0), ((good, quick), 0), ((suspect, quick), 1),
                            ((good, suspect, quick, again), 3)):  # fmt: skip
        entries = [corpus.entry_of(one, f"runs/a/{at}") for at, one in enumerate(several)]
        found = evidence.find(Corpus(entries, (), ()), asked, factory.HOST)
        assert found and found.entry is entries[chosen]


def test_the_order_of_runs_is_validity_profile_accelerator_day() -> None:
    """As harness/measure/supersession.py has it; each later run here is worse in one respect."""
    asked = answer(metric="first-reply")

    def run(day: int, status: str, profile: str, accelerator: str) -> RunRecord:
        host = factory.machine(accelerator=accelerator)
        one = factory.cold_start("full", n=3, day=day, profile=profile, host=host)
        series = [
            dataclasses.replace(
                each, dimensions={k: v for k, v in each.dimensions.items() if k != "accelerator"}
            )
            for each in one.series
        ]
        validity = record.Validity(status, () if status == "valid" else ("a",))  # type: ignore[arg-type]
        return dataclasses.replace(one, series=series, validity=validity)

    several = [
        run(5, "valid", "full", "kvm"),
        run(1, "valid", "full", "kvm"),
        run(6, "valid", "full", "tcg"),
        run(7, "valid", "quick", "kvm"),
        run(8, "suspect", "full", "kvm"),
    ]
    while several:
        best, entries = several[0], sorted(several, key=lambda one: one.run_id)
        made = [corpus.entry_of(one, f"runs/a/{at}") for at, one in enumerate(entries)]
        known = Corpus(made, (), ())
        found = evidence.find(known, asked, factory.HOST)
        assert found and found.entry.summary.run_id == best.run_id
        (newest,) = known.newest("cold-start", factory.HOST, "first-reply")
        assert newest[1].summary.run_id == best.run_id
        (shown,) = (
            entry
            for entry, series in numbers.newest(known, factory.HOST)["cold-start"]
            if series.metric == "first-reply"
        )
        assert shown.summary.run_id == best.run_id
        assert best.run_id not in known.superseded
        several = several[1:]


def counted(day: int, values: Sequence[float], sha256: str, status: str = "valid") -> RunRecord:
    """A record of a rig's version with one series of counts."""
    base = factory.cold_start("full", n=1, day=day)
    series = Series("endpoint", "1", "lower", {"substrate": "qemu"}, "closed", (), list(values))
    rig = dataclasses.replace(base.rig, sha256=sha256)
    validity = record.Validity(status, () if status == "valid" else ("a",))  # type: ignore[arg-type]
    return dataclasses.replace(base, series=(series,), rig=rig, validity=validity)


def test_a_claim_of_none_counts_every_valid_record_of_todays_rig() -> None:
    old, alike, now = "0" * 64, "1" * 64, "2" * 64
    records = [
        counted(1, [1.0] * 5, old),
        counted(2, [0.0, 1.0, 0.0], alike),
        counted(3, [9.0], now, "suspect"),
        counted(4, [0.0] * 4, now),
    ]
    entries = [corpus.entry_of(one, f"runs/a/{at}") for at, one in enumerate(records)]
    asked = answer(every_record=True, holds="at-most", bound=0.0, comparable=True)
    known = Corpus(entries, (), (), rigs={records[0].rig.path: [now, alike]})
    found = evidence.find(known, asked, factory.HOST)
    assert found and found.n == 7 and sum(found.samples) == 1
    assert found.entries == [entries[3], entries[1]]
    # Where today's rig has measured nothing, the newest rig that has: its records are marked.
    known = Corpus(entries[:2], (), (), rigs={records[0].rig.path: [now]})
    found = evidence.find(known, asked, factory.HOST)
    assert found and found.entries == [entries[1]]
    only = Corpus([entries[2]], (), (), rigs={records[0].rig.path: [now]})
    found = evidence.find(only, asked, factory.HOST)
    assert found and found.entries == [entries[2]]


def test_an_endpoints_series_answers_only_where_its_system_is_named() -> None:
    both = corpus_of(of(1.0, sdk="http"), of(2.0, sdk="http", system="cubesandbox"))
    found = evidence.find(both, answer(), factory.HOST)
    assert found and found.system == "gateway"
    pooled = evidence.find(both, answer(pooled=True), factory.HOST)
    assert pooled and pooled.n == 8
    found = evidence.find(both, answer(where={"system": "cubesandbox"}), factory.HOST)
    assert found and found.system == "cubesandbox" and set(found.samples) == {2.0}


def test_a_dimension_of_null_must_be_absent() -> None:
    both = corpus_of(of(1.0, network="cubenet"), of(2.0))
    found = evidence.find(both, answer(where={"network": None}), factory.HOST)
    assert found and set(found.samples) == {2.0}
    assert not evidence.find(
        corpus_of(of(1.0, network="cubenet")), answer(where={"network": None}), factory.HOST
    )


def test_no_answer_picks_one_of_several_series(kept: Path) -> None:
    """Of the records that are kept: a claim names its series, or pools them. Otherwise a run of
    another series, which supersedes nothing, could change a verdict."""
    known = corpus.load(kept, kept / "published")
    looked = 0
    for one in (answer for claim in known.claims for answer in claim.answers if not answer.pooled):
        for machine in known.machines:
            kinds = known.series_of(one.rig, machine, one.metric)
            fitting = [kind for kind in kinds if answering.answers(kind.dimensions, one)]
            assert len(fitting) < 2, (one, [kind.dimensions for kind in fitting])
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
    page = (tmp_path / "out/claims/cubesandbox-cold-start.html").read_text(encoding="utf-8")
    assert page.count('class="decides"') == 1
    above, below = page.split('id="answers"')
    assert "the verdict rests on <strong>first-reply, qemu, durable-prewarm-pool" in above
    assert "Our clock includes no HTTP API" in above
    assert "first-exec, qemu, durable-pool" in below.split("</table>")[0]

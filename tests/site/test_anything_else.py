"""Whatever else runs on a machine: what was measured keeps its verdicts, and is marked."""

from __future__ import annotations

import csv
import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from harness.claims.verdict import Verdict
from harness.measure import record
from harness.measure.record import RunRecord, Series
from harness.site.builder.build import build
from harness.site.data import corpus, evidence
from harness.site.data.corpus import Corpus

DAY = "29991231T120000Z"
KERNEL, IMAGE = "Linux 99.0-newer (test)", "0" * 64


@pytest.fixture(scope="module")
def known(kept: Path) -> Corpus:
    return corpus.load(kept, kept / "published")


def newest(known: Corpus, rig: str, substrate: str | None = None) -> RunRecord:
    """The newest record of a rig on the corpus's machine."""
    found = [
        one
        for one in known.of_rig(rig, known.machine)
        if substrate is None or one.summary.series[0].dimensions.get("substrate") == substrate
    ]
    return found[-1].record


def on_newer_kernel(
    one: RunRecord, number: int, series: Sequence[Series] | None = None, **changed: object
) -> RunRecord:
    """A later run on a newer kernel, with other images and a rig that has changed."""
    images = [dataclasses.replace(image, sha256=IMAGE) for image in one.images]
    later = dataclasses.replace(
        one,
        run_id=f"{DAY}-{number:08x}",
        started="2999-12-31T12:00:00Z",
        finished="2999-12-31T12:01:00Z",
        machine=dataclasses.replace(one.machine, kernel=KERNEL),
        images=images,
        rig=dataclasses.replace(one.rig, sha256="1" * 64),
        series=one.series if series is None else series,
    )
    return dataclasses.replace(later, **changed)  # type: ignore[arg-type]


def times(factor: float, several: Sequence[Series]) -> list[Series]:
    """The same series with other figures."""
    return [
        dataclasses.replace(one, samples=[factor * value for value in one.samples])
        for one in several
    ]


def anything_else(known: Corpus) -> Sequence[RunRecord]:
    """What may be run on the machine without measuring again what answers a claim."""
    guests, fleet = newest(known, "cold-start", "qemu"), newest(known, "density")
    round_trips = newest(known, "net-rtt")
    elsewhere = [
        dataclasses.replace(one, dimensions={**one.dimensions, "n": 3}) for one in fleet.series
    ]
    disturbed = record.Validity("suspect", ("load from elsewhere (test)",))
    return [
        on_newer_kernel(newest(known, "cold-start", "noop"), 1),
        on_newer_kernel(newest(known, "kill-storm"), 2),
        on_newer_kernel(fleet, 3, elsewhere),
        # Measured worse than what answers: these supersede nothing either.
        on_newer_kernel(guests, 4, times(1000, guests.series), validity=disturbed),
        on_newer_kernel(round_trips, 5, times(1000, round_trips.series), profile="quick"),
    ]


def with_records(known: Corpus, *added: RunRecord) -> Corpus:
    """The corpus of the same directory with these records in it."""
    new = [corpus.entry_of(one, f"runs/new/{at}") for at, one in enumerate(added)]
    entries = corpus.with_marks([*known.entries, *new], {}, {}, new[-1].date)
    return dataclasses.replace(known, entries=entries, today=new[-1].date)


def decided(known: Corpus) -> dict[tuple[str, str], tuple[str, object, str]]:
    """By claim and machine: the verdict with its notes, our figure, and the deciding record."""
    found: dict[tuple[str, str], tuple[str, object, str]] = {}
    for machine in known.machines:
        for claim in known.claims:
            one = evidence.deciding(evidence.judged(known, claim, machine))
            assert one
            run = one.found.entry.summary.run_id if one.found else ""
            found[claim.id, machine] = (one.finding.text, one.finding.estimate, run)
    return found


def tallied(known: Corpus) -> dict[Verdict, int]:
    of = (evidence.deciding(evidence.judged(known, one, known.machine)) for one in known.claims)
    return dict(evidence.tally(list(of)))


def test_verdicts_stay_whatever_else_runs_on_the_machine(known: Corpus) -> None:
    added = anything_else(known)
    after = with_records(known, *added)
    assert after.machine == known.machine
    assert decided(after) == decided(known)
    assert tallied(after) == tallied(known)
    findings = [
        each.finding
        for claim in after.claims
        for each in evidence.judged(after, claim, after.machine)
        if each.found
    ]
    assert len(findings) > 30
    # Every figure is marked instead, with the command that renews it.
    for one in findings:
        assert "the machine now runs another kernel" in [mark.text for mark in one.marks]
        assert all(mark.command.startswith("mise run ") for mark in one.marks)


def test_one_record_of_another_machine_takes_no_verdict_off_the_site(known: Corpus) -> None:
    """Not even a valid one: the site is about the machine that has the most evidence."""
    host = known.machines[known.machine or ""][-1].summary.machine
    one = newest(known, "cold-start", "noop")
    other = dataclasses.replace(one.machine, id="another-host", name="Another host (test)")
    for validity in (record.Validity("suspect", ("load (test)",)), record.Validity("valid")):
        made = dataclasses.replace(
            on_newer_kernel(one, 8), machine=other, profile="quick", validity=validity
        )
        after = with_records(known, made)
        assert after.machine == known.machine == host.id
        assert next(iter(after.machines)) == host.id and "another-host" in after.machines
        assert tallied(after) == tallied(known)
        assert tallied(after)[Verdict.NOT_MEASURED] < len(known.claims) / 2


def test_of_machines_with_equal_evidence_the_newest_comes_first(known: Corpus) -> None:
    one = newest(known, "cold-start", "noop")
    twin = dataclasses.replace(one.machine, id="a-twin")
    made = dataclasses.replace(on_newer_kernel(one, 9), machine=twin)
    for several in ([one, made], [made, dataclasses.replace(one, run_id=f"{DAY}-f")]):
        entries = [corpus.entry_of(each, f"runs/a/{at}") for at, each in enumerate(several)]
        alone = dataclasses.replace(known, entries=entries)
        assert alone.machine == several[-1].machine.id


def test_a_newer_run_of_the_same_series_takes_its_place(known: Corpus) -> None:
    """As well measured, and so different that its verdict differs: what the test above rests on."""
    old = newest(known, "net-rtt")
    made = on_newer_kernel(old, 6, times(0.001, old.series))
    text, _, run = decided(with_records(known, made))["coppice-network-rtt", old.machine.id]
    assert run == made.run_id and text.startswith(Verdict.REACHED)


def test_the_site_says_the_same_before_and_after(
    known: Corpus, kept: Path, real: Path, tmp_path: Path
) -> None:
    """`coppice site` after a run on a newer kernel, in the same results and over the same site."""
    results, out = tmp_path / "results", tmp_path / "out"
    shutil.copytree(kept, results)
    shutil.copytree(real, out)
    record.write(on_newer_kernel(newest(known, "cold-start", "noop"), 7), results)
    build(results, out)

    def rows(site: Path) -> list[dict[str, str]]:
        with (site / "claims.csv").open(newline="", encoding="utf-8") as file:
            return [{**row, "marks": ""} for row in csv.DictReader(file)]

    assert rows(out) == rows(real) and len(rows(out)) > 60
    for name in ("index", "claims", "cold-start", "density", "network", "numbers", "compare"):
        assert (out / f"{name}.html").read_text(encoding="utf-8").count('class="since"') > 4, name
    page = (out / "claims.html").read_text(encoding="utf-8")
    renewed = page[page.index('id="since"') :]
    assert renewed.count("<code>mise run bench:") > 5
    assert "the machine now runs another kernel" in renewed

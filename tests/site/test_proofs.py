"""What a function-only record proves of a claim: with how many guests, and in what kind of run."""

from __future__ import annotations

import dataclasses

import pytest

from harness.claims import claims
from harness.claims.published import Figure
from harness.measure.record import Facts, RunRecord, Series, Validity
from harness.site.data import corpus, evidence, figures, how_many
from harness.site.data.corpus import Corpus
from tests.site import factory

_FIGURE = Figure(
    id="made.up", topic="memory", what="made up", as_written="1", value=1.0, unit="1",
    statistic="p50", source="https://example.org/", clock="count", publisher="made up", subject="",
    when="2026", label="advertised",
)  # fmt: skip


def of(metric: str, n: int, samples: int = 3) -> Series:
    """A series of a fleet of n guests."""
    dimensions: Facts = {"substrate": "bhyve", "n": n}
    return Series(metric, "s", "lower", dimensions, "closed", (), [1.0] * samples)


def run(*series: Series, day: int = 1, status: str = "valid") -> RunRecord:
    host = dataclasses.replace(factory.machine("freebsd"), function_only="made up")
    why = () if status == "valid" else ("load (test)",)
    one = factory.cold_start("full", n=1, day=day, host=host, validity=Validity(status, why))  # type: ignore[arg-type]
    return dataclasses.replace(one, series=series)


def proof(where: Facts, *records: RunRecord) -> evidence.Found:
    answer = claims.Answer(
        "cold-start", "reply", "p50", "at-most", False, "test", "test", where=where
    )
    claim = claims.Claim("made-up", "t", "q", _FIGURE, "u", "bhyve", [answer])
    entries = [corpus.entry_of(one, f"runs/a/{at}") for at, one in enumerate(records)]
    (found,) = evidence.proofs(Corpus(entries, (), ()), claim)
    return found


def test_the_number_that_the_claim_names_comes_before_any_other() -> None:
    one = run(of("reply", 2), of("reply", 1000))
    later = run(of("reply", 4), day=9)
    wanted: Facts = {"substrate": "bhyve", "n": 1000, "network": None}
    assert proof(wanted, one, later).summary.dimensions["n"] == 1000
    assert proof({**wanted, "n": 3}, one, later).summary.dimensions["n"] == 4
    # A disturbed run of the right number says more than an undisturbed one of another number.
    disturbed = dataclasses.replace(one, validity=Validity("suspect", ("load (test)",)))
    assert proof(wanted, disturbed, later).summary.dimensions["n"] == 1000


def test_of_equal_runs_the_undisturbed_and_then_the_newest_is_shown() -> None:
    made = [run(of("reply", 4), day=day) for day in (1, 2)]
    suspect = run(of("reply", 4), day=3, status="suspect")
    found = proof({"substrate": "bhyve", "n": 1000}, *made, suspect)
    assert found.entry.date == "2026-11-02"


@pytest.mark.parametrize(
    ("dimensions", "text"),
    [
        ({"substrate": "bhyve", "n": 4}, "4 guests"),
        ({"substrate": "bhyve", "n": 1}, "1 guest"),
        ({"transport": "pfctl", "n": 1000, "others": 20}, "1\u202f000 entries, 20 other sandboxes"),
        ({"substrate": "qemu", "concurrency": 10}, "10 at once"),
        ({"substrate": "qemu", "concurrency": 1}, ""),
    ],
)
def test_the_number_as_text(dimensions: Facts, text: str) -> None:
    assert how_many.text(dimensions) == text


def test_the_badge_has_the_number_and_the_mark_and_counts_no_readings_as_attempts() -> None:
    fleet = run(
        of("host-change", 4, 11),
        of("reply", 4, 4),
        status="suspect",
    )
    entry = corpus.entry_of(fleet, "runs/a/0")
    readings, replies = (
        str(figures.proved(entry, one, lambda path: path)) for one in entry.summary.series
    )
    assert "with 4 guests<" in readings and "11 of 11" not in readings
    assert "with 4 guests, 4 of 4<" in replies
    assert all('#validity">suspect</a>' in one for one in (readings, replies))

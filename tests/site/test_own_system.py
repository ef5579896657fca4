"""A record of the claim's own system, through its API, reproduces or contradicts the claim."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest

from harness import paths
from harness.claims import claims, published
from harness.measure.record import RunRecord, Series
from harness.site.data import corpus, evidence
from harness.site.data.corpus import Corpus
from harness.site.data.evidence import Judged
from harness.site.page import Document
from harness.site.pages.claims import PAGE
from tests.site import factory

FIGURES = published.load(paths.PUBLISHED)
CLAIMS = [
    one
    for one in claims.load(FIGURES)
    if one.system == "cubesandbox"
    and any(a.metric == "create-headers" and a.comparable for a in one.answers)
]


def run(day: int, level: float, **system: str) -> RunRecord:
    """A run over an API in which a creation takes about this many seconds."""
    base = factory.cold_start("full", n=1, day=day)
    samples = [level * (1 + number / 10_000) for number in range(600)]
    series = [
        Series("create-headers", "s", "lower", {"sdk": "http", "concurrency": many, **system},
               "closed", (), samples)
        for many in (1, 50)
    ]  # fmt: skip
    return dataclasses.replace(
        base, rig=dataclasses.replace(base.rig, id="e2b-latency"), series=series
    )


def corpus_of(claim: claims.Claim, *records: RunRecord) -> Corpus:
    entries = [corpus.entry_of(one, f"runs/a/{at}") for at, one in enumerate(records)]
    return Corpus(entries, (), FIGURES, [claim])


def listed(known: Corpus) -> Sequence[Judged]:
    """What the claim's page lists as our measurements."""
    first = next(one for one in PAGE.render(known) if isinstance(one, Document))
    found = first.context["answers"]
    assert isinstance(found, list)
    return found


def test_every_latency_of_the_api_is_looked_at() -> None:
    assert len(CLAIMS) == 6


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda one: one.id)
def test_a_record_of_cubesandbox_reproduces_or_contradicts(claim: claims.Claim) -> None:
    """Whatever our gateway does beside it."""
    bound = claim.figure.value
    assert bound
    for factor, verdict in ((0.5, "reproduced"), (2.0, "contradicted")):
        own = run(1, factor * bound, system="cubesandbox")
        known = corpus_of(claim, own, run(2, bound / factor, substrate="qemu"))
        one = evidence.deciding(evidence.judged(known, claim, factory.HOST))
        assert one and one.finding.verdict == verdict and one.found
        assert one.found.entry.summary.run_id == own.run_id
        assert one in listed(known)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda one: one.id)
def test_without_such_a_record_the_page_lists_no_row_for_it(claim: claims.Claim) -> None:
    several = listed(corpus_of(claim, run(1, 0.01, substrate="qemu")))
    assert several and all("system" not in one.answer.where for one in several)

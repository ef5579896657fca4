"""Finds the series on a machine that answer a claim, and judges them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from harness.claims import answering, decision, systems, verdict
from harness.claims.claims import Answer, Claim
from harness.claims.verdict import Evidence, Finding, Verdict
from harness.measure.conditions import GUEST_KERNEL
from harness.measure.record import Facts, Series
from harness.site.data import how_many
from harness.site.data.corpus import Corpus, RecordEntry, SeriesAt
from harness.site.data.record_summary import Rank, SeriesSummary, fits
from harness.site.data.series_kind import SeriesKind

RANKED = (
    "Of several runs of the same series, a valid one comes before a suspect one, then the full "
    "profile before a shorter one, then hardware virtualisation before emulation, and of equal "
    "ones the newest."
)
"""The rule of RecordSummary.rank as pages state it; harness/measure/supersession.py agrees."""


@dataclass(frozen=True)
class Found:
    """The series that answers a claim, and its record. `by` is the answer's divisor.

    If several series of the record answer together, `pool` has all of them and `summary` is the
    first. If several records do, `others` has those besides the newest.
    """

    entry: RecordEntry
    summary: SeriesSummary
    by: int = 1
    pool: Sequence[SeriesSummary] = ()
    others: Sequence[Found] = ()

    @property
    def n(self) -> int:
        own = sum(one.n for one in self.pool or (self.summary,))
        return own + sum(one.n for one in self.others)

    @property
    def failed(self) -> int:
        own = sum(one.failed for one in self.pool or (self.summary,))
        return own + sum(one.failed for one in self.others)

    @property
    def entries(self) -> Sequence[RecordEntry]:
        """Every record that answers, the newest first."""
        return [self.entry, *(one.entry for one in self.others)]

    @property
    def samples(self) -> Sequence[float]:
        """The samples of the series, or of all that answer together."""
        own = self.full_series.samples if not self.pool else self._pooled()
        return [*own, *(value for one in self.others for value in one.samples)]

    def _pooled(self) -> Sequence[float]:
        wanted = {one.anchor for one in self.pool}
        several = zip(self.entry.record.series, self.entry.summary.series, strict=True)
        found = [one.samples for one, summary in several if summary.anchor in wanted]
        return [value for samples in found for value in samples]

    @property
    def full_series(self) -> Series:
        """The series with its samples."""
        wanted = self.summary
        for one in self.entry.record.series:
            if one.metric == wanted.metric and dict(one.dimensions) == dict(wanted.dimensions):
                return one
        raise AssertionError(f"{self.entry.place.shown} has no {wanted.name}")

    @property
    def system(self) -> str:
        """The system that was measured."""
        record = self.entry.summary
        return systems.of_series(self.summary.dimensions, record.machine.os, record.rig.id)


@dataclass(frozen=True)
class Judged:
    """One answer on one machine: the series found, and the verdict. One of them decides."""

    answer: Answer
    found: Found | None
    finding: Finding
    decides: bool = False


def find(corpus: Corpus, answer: Answer, machine: str | None, service: str = "") -> Found | None:
    """The record that answers best, or all valid ones of today's rig for `every_record`; with the
    identity of a service, only of its records.

    Undisturbed records first, then the full profile, then those whose guests were not emulated; the
    newest of equals. What has changed since a record was made changes nothing.
    """
    by_kind = corpus.series_of(answer.rig, machine, answer.metric)
    kinds = [
        kind
        for kind in by_kind
        if answering.answers(kind.dimensions, answer) and service in ("", kind.endpoint)
    ]
    if answer.every_record and (several := _every(corpus, by_kind, kinds)):
        newest, *others = (_found(entry, kinds, answer) for entry in several)
        return dataclasses.replace(newest, others=tuple(others))
    best = [one for kind in kinds if (one := _best(corpus, by_kind[kind], answer.per))]
    if not best:
        return None
    _, _, entry = max(best, key=lambda one: one[:2])
    return _found(entry, kinds, answer)


def _found(entry: RecordEntry, kinds: Sequence[SeriesKind], answer: Answer) -> Found:
    fitting = [summary for summary in entry.summary.series if summary.kind in kinds]
    counted = entry.summary.find(answer.per, {}) if answer.per else None
    pool = fitting if answer.pooled else ()
    return Found(entry, fitting[0], counted.n if counted else 1, pool)


def _every(
    corpus: Corpus,
    by_kind: Mapping[SeriesKind, Sequence[SeriesAt]],
    kinds: Sequence[SeriesKind],
) -> Sequence[RecordEntry]:
    """Every valid record of today's rig with these series, newest first; if today's rig has none,
    of the newest rig that has one. Of several services under test, that of the newest record."""
    valid = {
        at: entry
        for kind in kinds
        for at, entry, series in by_kind[kind]
        if series.n and entry.summary.validity.status == "valid"
    }
    found = [valid[at] for at in sorted(valid, reverse=True)]
    if not found:
        return ()
    found = [one for one in found if _service(one) == _service(found[0])]
    rig = found[0].summary.rig
    today = corpus.rigs.get(rig.path, ())
    current = [one for one in found if one.summary.rig.sha256 in today]
    return current or [one for one in found if one.summary.rig.sha256 == rig.sha256]


def _service(entry: RecordEntry) -> str:
    return entry.summary.endpoint.identity if entry.summary.endpoint else ""


def _best(
    corpus: Corpus, candidates: Sequence[SeriesAt], per: str | None
) -> tuple[Rank, int, RecordEntry] | None:
    """The best record with one kind of series, the newest of equals, with its rank and position.
    If the answer needs a divisor, only records that have it count."""
    key = (_best, id(candidates), per)
    if key not in corpus.memo:
        usable = [
            (entry.summary.rank(series), at, entry)
            for at, entry, series in candidates
            if not per or ((counted := entry.summary.find(per, {})) and counted.n)
        ]
        corpus.memo[key] = max(usable, key=lambda one: one[:2], default=None)
    return cast("tuple[Rank, int, RecordEntry] | None", corpus.memo[key])


def judged(
    corpus: Corpus, claim: Claim, machine: str | None, service: str = ""
) -> Sequence[Judged]:
    """Every answer of a claim on one machine; the deciding one has the others counted. With the
    identity of a service, only its records that were made from this machine count."""
    key = (judged, claim.id, machine, service)
    if key in corpus.memo:
        return cast(Sequence[Judged], corpus.memo[key])
    made = []
    for answer in claim.answers:
        found = find(corpus, answer, machine, service)
        finding = verdict.judge(claim, answer, _evidence(found))
        runs = _other_runs(claim, answer, finding, found)
        made.append(Judged(answer, found, dataclasses.replace(finding, runs=runs)))
    at = decision.deciding(claim, [_candidate(claim, one) for one in made])
    if at is not None:
        counted = decision.ways([one.finding for one in made])
        finding = dataclasses.replace(made[at].finding, ways=counted)
        made[at] = dataclasses.replace(made[at], finding=finding, decides=True)
    corpus.memo[key] = made
    return made


def _other_runs(
    claim: Claim, answer: Answer, finding: Finding, found: Found | None
) -> Sequence[str]:
    """Which runs that differ in nothing recorded, or in our gateway's commit alone, lie on the
    other side of the claimed value. Counts that are summed over series or records have no such."""
    if found is None or found.pool or found.others or answer.per or not found.entry.environment:
        return ()
    several, kind = found.entry.environment, found.summary.kind
    own = several.values(kind, answer.statistic)
    other = several.values_of_other_commits(kind, answer.statistic)
    notes = []
    for values, which in ((own, "runs"), (other, "runs of other commits")):
        many = verdict.on_the_other_side(claim, answer, finding, values)
        if many:
            notes.append(f"{many} of {len(values)} {which} on the other side")
    return notes


def _candidate(claim: Claim, one: Judged) -> decision.Candidate:
    dimensions = one.found.summary.dimensions if one.found else {}
    return decision.Candidate(one.answer, one.finding, dimensions)


def deciding(several: Sequence[Judged]) -> Judged | None:
    """The answer that decides a claim on a machine, by the rule of harness/claims/decision.py."""
    return next((one for one in several if one.decides), None)


def proofs(corpus: Corpus, claim: Claim, machine: str | None = None) -> Sequence[Found]:
    """The function-only series of each answer that shows most, per machine (or of one machine).

    A series of the number that the answer names comes first, then those of other numbers, the
    nearest first: they only show that it works, and pages show their number.
    """
    key = (proofs, claim.id, machine)
    if key not in corpus.memo:
        corpus.memo[key] = _proofs(corpus, claim, machine)
    return cast(Sequence[Found], corpus.memo[key])


def _proofs(corpus: Corpus, claim: Claim, machine: str | None) -> Sequence[Found]:
    made: dict[tuple[str, str], Found] = {}
    for (rig, host), entries in corpus.function_only_records.items():
        if machine not in (None, host):
            continue
        for answer in claim.answers:
            if answer.rig == rig and (found := _proof(entries, answer)):
                made[found.entry.page, found.summary.anchor] = found
    return list(made.values())


def _proof(entries: Sequence[RecordEntry], answer: Answer) -> Found | None:
    """Of the records, oldest first: the number that was asked for, then undisturbed, then new."""
    # Older records leave out a dimension that others have as null.
    exact = {name: value for name, value in answer.where.items() if value is not None}
    kind = {name: value for name, value in exact.items() if name not in how_many.NUMBERS}
    found = [
        (_proof_rank(entry, series, exact), at, -series.number, Found(entry, series))
        for at, entry in enumerate(entries)
        if entry.summary.guest_kernel is None or GUEST_KERNEL in kind
        for series in entry.summary.series
        if series.metric == answer.metric
        and series.n
        and fits(series.dimensions, kind)
        and entry.summary.proves(series)
    ]
    return max(found, key=lambda one: one[:3])[3] if found else None


def _proof_rank(
    entry: RecordEntry, series: SeriesSummary, exact: Facts
) -> tuple[bool, tuple[int, ...], int]:
    return (
        fits(series.dimensions, exact),
        how_many.nearness(series.dimensions, exact),
        entry.summary.rank(series)[0],
    )


def _evidence(found: Found | None) -> Evidence | None:
    if found is None:
        return None
    return Evidence(
        found.samples,
        found.failed,
        found.by,
        found.entry.summary.validity.status,
        found.system,
        found.entry.summary.conditions(found.summary),
        found.entry.marks,
    )


def tally(several: Sequence[Judged | None]) -> Mapping[Verdict, int]:
    """The number of claims per verdict, in the order of the verdicts."""
    counts = dict.fromkeys(Verdict, 0)
    for one in several:
        counts[one.finding.verdict if one else Verdict.NOT_MEASURED] += 1
    return counts

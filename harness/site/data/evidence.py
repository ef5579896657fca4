"""Finds the series on a machine that answer a claim, and what has changed since."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from harness.claims import verdict
from harness.claims.claims import Answer, Claim
from harness.claims.verdict import Evidence, Finding, Verdict
from harness.measure.record import Series
from harness.site.data.cold_start import NOOP
from harness.site.data.corpus import Corpus, RecordEntry, SeriesAt
from harness.site.data.record_summary import SeriesKind, SeriesSummary, fits

_HOW_MANY = ("n", "concurrency", "others")


@dataclass(frozen=True)
class Found:
    """The series that answers a claim, and its record. `by` is the answer's divisor.

    If several series answer together, `pool` has all of them and `summary` is the first.
    """

    entry: RecordEntry
    summary: SeriesSummary
    by: int = 1
    pool: Sequence[SeriesSummary] = ()

    @property
    def n(self) -> int:
        return sum(one.n for one in self.pool or (self.summary,))

    @property
    def samples(self) -> Sequence[float]:
        """The samples of the series, or of the whole pool."""
        if not self.pool:
            return self.full_series.samples
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


@dataclass(frozen=True)
class Judged:
    """One answer on one machine: the series found, and the verdict."""

    answer: Answer
    found: Found | None
    finding: Finding


def find(corpus: Corpus, answer: Answer, machine: str | None) -> Found | None:
    """The record that answers best: undisturbed, not stale, full profile; the newest of equals."""
    by_kind = corpus.series_of(answer.rig, machine, answer.metric)
    kinds = [kind for kind in by_kind if _answers(kind, answer)]
    best = [one for kind in kinds if (one := _best(corpus, by_kind[kind], answer.per))]
    if not best:
        return None
    _, _, entry = max(best, key=lambda one: one[:2])
    fitting = [summary for summary in entry.summary.series if summary.kind in kinds]
    counted = entry.summary.find(answer.per, {}) if answer.per else None
    pool = fitting if answer.pooled else ()
    return Found(entry, fitting[0], counted.n if counted else 1, pool)


def _best(
    corpus: Corpus, candidates: Sequence[SeriesAt], per: str | None
) -> tuple[tuple[bool, bool, bool], int, RecordEntry] | None:
    """The best record with one kind of series, the newest of equals, with its rank and position.
    If the answer needs a divisor, only records that have it count."""
    key = (_best, id(candidates), per)
    if key not in corpus.memo:
        usable = [
            (_rank(corpus, entry), at, entry)
            for at, entry, _ in candidates
            if not per or ((counted := entry.summary.find(per, {})) and counted.n)
        ]
        corpus.memo[key] = max(usable, key=lambda one: one[:2], default=None)
    return cast("tuple[tuple[bool, bool, bool], int, RecordEntry] | None", corpus.memo[key])


def _rank(corpus: Corpus, entry: RecordEntry) -> tuple[bool, bool, bool]:
    """Whether it is undisturbed, not stale, and of the full profile; greater is better."""
    key = (_rank, entry.page)
    if key not in corpus.memo:
        one = entry.summary
        valid, fresh = one.validity.status == "valid", not stale(corpus, entry)
        corpus.memo[key] = (valid, fresh, one.profile == "full")
    return cast(tuple[bool, bool, bool], corpus.memo[key])


def _answers(kind: SeriesKind, answer: Answer) -> bool:
    """Whether a series matches. `noop` has no sandbox, so it answers no claim about one."""
    alone = kind.dimensions.get("substrate") == NOOP and "substrate" not in answer.where
    return not alone and fits(kind.dimensions, answer.where)


def judged(corpus: Corpus, claim: Claim, machine: str | None) -> Sequence[Judged]:
    """Every answer of a claim on one machine."""
    key = (judged, claim.id, machine)
    if key in corpus.memo:
        return cast(Sequence[Judged], corpus.memo[key])
    made = []
    for answer in claim.answers:
        found = find(corpus, answer, machine)
        made.append(Judged(answer, found, verdict.judge(claim, answer, _evidence(corpus, found))))
    corpus.memo[key] = made
    return made


def deciding(several: Sequence[Judged]) -> Judged | None:
    """The answer that decides a claim on a machine."""
    if not several:
        return None
    chosen = verdict.deciding([one.finding for one in several])
    return next(one for one in several if one.finding is chosen)


def proofs(corpus: Corpus, claim: Claim, machine: str | None = None) -> Sequence[Found]:
    """The newest function-only series of each answer, per machine (or of one machine).

    The number of sandboxes need not match the claim: these series only show that it works.
    """
    made: dict[tuple[str, str], Found] = {}
    for (rig, host), entries in corpus.function_only_records.items():
        if machine not in (None, host):
            continue
        for answer in claim.answers:
            kind = {k: v for k, v in answer.where.items() if k not in _HOW_MANY}
            for entry in reversed(entries):
                summary = entry.summary.find(answer.metric, kind)
                if answer.rig == rig and summary and summary.n:
                    made[entry.page, summary.anchor] = Found(entry, summary)
                    break
    return list(made.values())


def _evidence(corpus: Corpus, found: Found | None) -> Evidence | None:
    if found is None:
        return None
    entry, summary = found.entry, found.summary
    return Evidence(
        found.samples,
        sum(one.failed for one in found.pool or (summary,)),
        found.by,
        entry.summary.validity.status,
        stale(corpus, entry),
    )


def stale(corpus: Corpus, entry: RecordEntry) -> Sequence[str]:
    """Why a record may differ from what would be measured today; empty if it is current."""
    one = entry.summary
    reasons = []
    old = verdict.age(one.date, corpus.today)
    if old:
        reasons.append(old)
    now = corpus.rigs.get(one.rig.path)
    if now and one.rig.sha256 not in now:
        reasons.append("the rig has changed since")
    for patch in one.patches:
        if patch.applied and corpus.patches.get(patch.path, patch.sha256) != patch.sha256:
            reasons.append(f"the patch {patch.path} has changed since")
    newest = corpus.machines[one.machine.id][-1].summary
    if newest.machine.kernel != one.machine.kernel:
        reasons.append("the machine now runs another kernel")
    images = _images(corpus, one.machine.id, one.rig.id)
    if any(images.get(image.name, image.sha256) != image.sha256 for image in one.images):
        reasons.append("the image has changed since")
    return reasons


def _images(corpus: Corpus, machine: str, rig: str) -> Mapping[str, str]:
    """The newest image of each name that a rig used on a machine."""
    key = (_images, machine, rig)
    if key not in corpus.memo:
        found: dict[str, str] = {}
        for entry in corpus.of_rig(rig, machine):
            found.update({image.name: image.sha256 for image in entry.summary.images})
        corpus.memo[key] = found
    return cast(Mapping[str, str], corpus.memo[key])


def tally(several: Sequence[Judged | None]) -> Mapping[Verdict, int]:
    """The number of claims per verdict, in the order of the verdicts."""
    counts = dict.fromkeys(Verdict, 0)
    for one in several:
        counts[one.finding.verdict if one else Verdict.NOT_MEASURED] += 1
    return counts

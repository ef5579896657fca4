"""Finds what of a machine's records answers a claim, and what has changed since it was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from harness.claims import verdict
from harness.claims.claims import Answer, Claim
from harness.claims.verdict import Evidence, Finding, Verdict
from harness.measure.record import Series
from harness.site.brief import Line, fits
from harness.site.coldstart import NOOP
from harness.site.corpus import Corpus, Entry

_HOW_MANY = ("n", "concurrency", "others")


@dataclass(frozen=True)
class Found:
    """The series that answers, in its record. `by` is what the answer divides it by.

    `pool` has every series where several answer together; `line` is the first of them.
    """

    entry: Entry
    line: Line
    by: int = 1
    pool: Sequence[Line] = ()

    @property
    def n(self) -> int:
        return sum(one.n for one in self.pool or (self.line,))

    @property
    def samples(self) -> Sequence[float]:
        """Those of the series, or of all of the pool."""
        if not self.pool:
            return self.series.samples
        wanted = {one.anchor for one in self.pool}
        several = zip(self.entry.record.series, self.entry.brief.lines, strict=True)
        return [value for one, line in several if line.anchor in wanted for value in one.samples]

    @property
    def series(self) -> Series:
        """With its samples."""
        wanted = self.line
        for one in self.entry.record.series:
            if one.metric == wanted.metric and dict(one.dimensions) == dict(wanted.dimensions):
                return one
        raise AssertionError(f"{self.entry.place.shown} has no {wanted.name}")


@dataclass(frozen=True)
class Judged:
    """One answer on one machine: what was found, and what it says."""

    answer: Answer
    found: Found | None
    finding: Finding


def find(corpus: Corpus, answer: Answer, machine: str | None) -> Found | None:
    """The record that answers best: one that nothing disturbed, that is not stale, of the full
    profile; of several as good the newest."""
    best: tuple[tuple[bool, bool, bool], Found] | None = None
    for entry, lines in reversed(corpus.lines(answer.rig, machine, answer.metric)):
        fitting = [one for one in lines if _answers(one, answer)]
        if not fitting:
            continue
        line = fitting[0]
        counted = entry.brief.find(answer.per, {}) if answer.per else None
        if answer.per and (counted is None or not counted.n):
            continue
        one = entry.brief
        rank = (one.validity.status == "valid", not stale(corpus, entry), one.profile == "full")
        if best is None or rank > best[0]:
            pool = fitting if answer.pooled else ()
            best = (rank, Found(entry, line, counted.n if counted else 1, pool))
        if all(rank):
            break
    return best[1] if best else None


def _answers(line: Line, answer: Answer) -> bool:
    """Whether a series fits; the harness alone, without a sandbox, answers no claim about one."""
    alone = line.dimensions.get("substrate") == NOOP and "substrate" not in answer.where
    return not alone and fits(line.dimensions, answer.where)


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
    """Of each machine that proves function only (or of one), the newest series of each answer.

    As many as the claim speaks of need not have been tried: that the thing works is what is shown.
    """
    made: dict[tuple[str, str], Found] = {}
    for (rig, host), entries in corpus.proving.items():
        if machine not in (None, host):
            continue
        for answer in claim.answers:
            kind = {k: v for k, v in answer.where.items() if k not in _HOW_MANY}
            for entry in reversed(entries):
                line = entry.brief.find(answer.metric, kind)
                if answer.rig == rig and line and line.n:
                    made[entry.page, line.anchor] = Found(entry, line)
                    break
    return list(made.values())


def _evidence(corpus: Corpus, found: Found | None) -> Evidence | None:
    if found is None:
        return None
    entry, line = found.entry, found.line
    return Evidence(
        found.samples,
        sum(one.failed for one in found.pool or (line,)),
        found.by,
        entry.brief.validity.status,
        stale(corpus, entry),
    )


def stale(corpus: Corpus, entry: Entry) -> Sequence[str]:
    """Why a record no longer speaks of what would be measured today; empty when it does."""
    one = entry.brief
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
    newest = corpus.machines[one.machine.id][-1].brief
    if newest.machine.kernel != one.machine.kernel:
        reasons.append("the machine runs another kernel now")
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
            found.update({image.name: image.sha256 for image in entry.brief.images})
        corpus.memo[key] = found
    return cast(Mapping[str, str], corpus.memo[key])


def tally(several: Sequence[Judged | None]) -> Mapping[Verdict, int]:
    """How many claims have each verdict, in the order of the verdicts."""
    counts = dict.fromkeys(Verdict, 0)
    for one in several:
        counts[one.finding.verdict if one else Verdict.NOT_MEASURED] += 1
    return counts

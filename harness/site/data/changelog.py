"""What came and what moved, day by day: the records of each day, and the claims whose verdict or
deciding figure they changed on their machine."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from harness.claims.claims import Claim
from harness.claims.verdict import Verdict
from harness.measure.quantity import show
from harness.measure.statistics import Estimate
from harness.site.data import evidence
from harness.site.data.corpus import Corpus, RecordEntry
from harness.site.data.record_summary import SeriesSummary

DAYS = 60
"""The most days that have a page, the newest."""
LEAST = 0.10
"""The least change of a figure that counts as a move, as in histories."""


@dataclass(frozen=True)
class Standing:
    """A claim's verdict on a machine at the end of a day, and the figure that decides it."""

    verdict: str
    estimate: Estimate | None = None
    entry: RecordEntry | None = None
    series: SeriesSummary | None = None

    def shown(self, unit: str) -> str:
        """The figure as text; empty if there is none."""
        return show(self.estimate, unit) if self.estimate else ""


UNKNOWN = Standing(str(Verdict.NOT_MEASURED))


@dataclass(frozen=True)
class Move:
    """A claim whose standing changed on a machine. `factor`: the new figure by the old one; None
    if these are not of one series."""

    claim: Claim
    machine: str
    before: Standing
    after: Standing

    @property
    def factor(self) -> float | None:
        old, new = self.before.estimate, self.after.estimate
        if not self.same_series:
            return None
        return new.value / old.value if old and new and min(old.value, new.value) > 0 else None

    @property
    def same_series(self) -> bool:
        """Whether one series decides before and after."""
        old, new = self.before.series, self.after.series
        return bool(old and new and old.kind is new.kind)

    @property
    def turned(self) -> bool:
        """Whether the verdict is another one."""
        return self.before.verdict != self.after.verdict


@dataclass(frozen=True)
class Day:
    """The records of one day by machine, oldest first, and the moves, changed verdicts first."""

    day: str
    records: Mapping[str, Sequence[RecordEntry]]
    moves: Sequence[Move]

    @property
    def count(self) -> int:
        return sum(map(len, self.records.values()))


def days(corpus: Corpus) -> Sequence[str]:
    """The newest days with records, newest first."""
    return sorted({entry.date for entry in corpus.entries}, reverse=True)[:DAYS]


def day_of(corpus: Corpus, day: str) -> Day:
    """What came and moved on one day."""
    key = (day_of, day)
    if key not in corpus.memo:
        corpus.memo[key] = _day_of(corpus, day)
    return cast(Day, corpus.memo[key])


def _day_of(corpus: Corpus, day: str) -> Day:
    records: dict[str, Sequence[RecordEntry]] = {}
    moves: list[Move] = []
    for machine, entries in corpus.machines.items():
        earlier = [entry for entry in entries if entry.date < day]
        own = [entry for entry in entries if entry.date == day]
        if own:
            records[machine] = own
            moves += _moves(corpus, machine, earlier, own)
    return Day(day, records, sorted(moves, key=lambda one: not one.turned))


def _moves(
    corpus: Corpus, machine: str, earlier: Sequence[RecordEntry], own: Sequence[RecordEntry]
) -> Iterator[Move]:
    rigs = {entry.summary.rig.id for entry in own}
    # Records of other rigs move nothing that these do not answer.
    claims = [
        claim for claim in corpus.claims if any(answer.rig in rigs for answer in claim.answers)
    ]
    before = _standings(corpus, machine, claims, earlier)
    after = _standings(corpus, machine, claims, [*earlier, *own])
    for claim in claims:
        old, new = before.get(claim.id, UNKNOWN), after.get(claim.id, UNKNOWN)
        if _moved(old, new):
            yield Move(claim, machine, old, new)


def _standings(
    corpus: Corpus, machine: str, claims: Sequence[Claim], entries: Sequence[RecordEntry]
) -> Mapping[str, Standing]:
    if not entries:
        return {}
    # Without today's rigs and patches: what has changed since then is no move of that day.
    then = dataclasses.replace(
        corpus, entries=entries, problems=(), rigs={}, patches={}, today=entries[-1].date
    )
    found = {}
    for claim in claims:
        judged = evidence.deciding(evidence.judged(then, claim, machine))
        if judged and judged.found:
            verdict, estimate = str(judged.finding.verdict), judged.finding.estimate
            found[claim.id] = Standing(verdict, estimate, judged.found.entry, judged.found.summary)
    return found


def _moved(old: Standing, new: Standing) -> bool:
    if old.verdict != new.verdict:
        return True
    if not old.estimate or not new.estimate:
        return old.estimate is not new.estimate
    low, high = sorted((old.estimate.value, new.estimate.value))
    return high != low and (low <= 0 or math.log(high / low) >= math.log1p(LEAST))

"""The claims that a run speaks to: the published figure, ours and the verdict, as lines of text.

Only the records just made are read. The site judges a claim by all records of a machine.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness import paths
from harness.claims import answering, claims, decision, published, systems, verdict
from harness.claims.claims import Answer, Claim
from harness.claims.decision import Candidate
from harness.claims.verdict import JUDGED, Evidence, Finding, Verdict
from harness.measure.quantity import show
from harness.measure.record import RunRecord, Scalar, Series, conditions_of, function_only
from harness.measure.selection import plain

SHOWN = 4
"""The most claims that are shown; of these the judged ones come first."""
_ORDER = (*JUDGED, Verdict.INCONCLUSIVE, Verdict.NOT_COMPARABLE)


@dataclass(frozen=True)
class Spoken:
    """A claim, and what of the run decides it. `n` counts the samples of all pooled series."""

    claim: Claim
    answer: Answer
    series: Series
    n: int
    finding: Finding


def lines(records: Sequence[RunRecord]) -> Iterator[str]:
    """Three lines for each claim; nothing if these records speak to none."""
    several = spoken(records, claims.load(published.load(paths.PUBLISHED)))
    if not several:
        return
    yield ""
    yield "Claims that this run speaks to:"
    for one in several[:SHOWN]:
        yield ""
        yield from _lines(one)
    yield ""
    if len(several) > SHOWN:
        yield f"{len(several) - SHOWN} more, and every answer with its reasons: coppice site"
    else:
        yield "Every answer with its reasons: coppice site"


def spoken(records: Sequence[RunRecord], known: Sequence[Claim]) -> Sequence[Spoken]:
    """The claims that these records speak to, judged ones first, in the order of `known`."""
    found = [one for claim in known if (one := _decided(records, claim))]
    return sorted(found, key=lambda one: _ORDER.index(one.finding.verdict))


def _decided(records: Sequence[RunRecord], claim: Claim) -> Spoken | None:
    candidates, answering_series = [], []
    for answer in claim.answers:
        for record in reversed(records):
            if record.rig.id == answer.rig and (fitting := _fitting(record, answer)):
                finding = verdict.judge(claim, answer, _evidence(record, fitting, answer))
                candidates.append(Candidate(answer, finding, fitting[0].dimensions))
                answering_series.append(fitting)
                break
    at = decision.deciding(claim, candidates)
    if at is None or candidates[at].finding.verdict not in _ORDER:
        return None
    counted = decision.ways([one.finding for one in candidates])
    finding = dataclasses.replace(candidates[at].finding, ways=counted)
    fitting = answering_series[at]
    n = sum(len(one.samples) for one in fitting)
    return Spoken(claim, candidates[at].answer, fitting[0], n, finding)


def _fitting(record: RunRecord, answer: Answer) -> Sequence[Series]:
    """The series of a record that answer; several only if the answer pools them."""
    found = [
        one
        for one in record.series
        if one.metric == answer.metric
        and answering.answers(one.dimensions, answer)
        # Timings that prove function alone mean nothing, however a claim defines its clock.
        and not function_only(one, record.machine)
    ]
    return found if answer.pooled else found[:1]


def _evidence(record: RunRecord, fitting: Sequence[Series], answer: Answer) -> Evidence | None:
    divisor = 1
    if answer.per:
        counted = next((one for one in record.series if one.metric == answer.per), None)
        if not counted or not counted.samples:
            return None
        divisor = len(counted.samples)
    return Evidence(
        [sample for one in fitting for sample in one.samples],
        sum(len(one.failures) for one in fitting),
        divisor,
        record.validity.status,
        systems.of_series(fitting[0].dimensions, record.machine.os, record.rig.id),
        conditions_of(fitting[0], record.machine),
    )


def _lines(one: Spoken) -> Iterator[str]:
    """The published figure, ours, and the verdict with its reasons."""
    figure, finding = one.claim.figure, one.finding
    assert finding.estimate
    counted = one.answer.statistic in ("sum", "count")
    value = f"{finding.estimate.value:g}" if counted else show(finding.estimate, one.series.unit)
    facts = [_fact(name, value) for name, value in one.answer.where.items() if value is not None]
    reasons = finding.reasons if finding.verdict not in JUDGED else ()
    published_ = f"{figure.marked}, {figure.statistic} ({figure.publisher})"
    yield f"  published  {published_}: {one.claim.title}"
    how = f"{one.answer.statistic} of {one.n}"
    yield f"  here       {value}, {how} ({' '.join([one.series.metric, *facts])})"
    yield f"  verdict    {': '.join(filter(None, (finding.text, '; '.join(reasons))))}"


def _fact(name: str, value: Scalar) -> str:
    """A dimension of the series: a text explains itself, a number needs its name."""
    return value if isinstance(value, str) else f"{name} {plain(value)}"

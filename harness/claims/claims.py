"""Claims as data: who claims what, under which clock, and which of our series can answer.

`claims.yaml` beside this file has the wording of each claim, what it probably measured, and what
answers it; the claimed value is in results/published/ only. Adding a claim means adding an entry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from harness import paths
from harness.claims.published import SAFE, Figure, PublishedError
from harness.measure.record import Scalar

CLAIMS_FILE = paths.CLAIMS
HOLDS = ("at-most", "at-least")
STATISTICS = ("p50", "p90", "p95", "p99", "mean", "min", "max", "sum", "count")


class ClaimError(PublishedError):
    """An invalid entry in claims.yaml."""


@dataclass(frozen=True)
class Answer:
    """One of our series that can answer a claim.

    `where` has the dimensions that it must have; `holds` says on which side of the claimed value
    our figure must be; `comparable` whether both measure the same thing, and `why` or why not.
    `per` names a metric of the same record; our figure is divided by the number of its samples.
    `pooled` uses the samples of all matching series together, `every_record` those of every valid
    record of today's rig instead of the newest alone: one failure disproves a claim of none.
    `bound` is the limit if the claim has no number.
    """

    rig: str
    metric: str
    statistic: str
    holds: str
    comparable: bool
    why: str
    task: str
    where: Mapping[str, Scalar] = field(default_factory=dict)
    per: str | None = None
    bound: float | None = None
    pooled: bool = False
    every_record: bool = False

    def __post_init__(self) -> None:
        if self.holds not in HOLDS or self.statistic not in STATISTICS:
            raise ValueError(f"holds must be one of {HOLDS} and statistic one of {STATISTICS}")
        if not isinstance(self.comparable, bool) or not self.why:
            raise ValueError("comparable must be true or false, and why must not be empty")


@dataclass(frozen=True)
class Claim:
    """One claim: `figure` is its value as published, `uses` the rung or definition behind it.

    `system` is what it is about (systems.py), `configuration` the dimensions that a series would
    have if it were measured as the claim was; they choose the answer that decides (decision.py).
    `quote` is its wording, or our paraphrase if `verbatim` is False.
    """

    id: str
    title: str
    quote: str
    figure: Figure
    uses: str
    system: str
    answers: Sequence[Answer]
    configuration: Mapping[str, Scalar] = field(default_factory=dict)
    limits: Sequence[str] = ()
    front: bool = False
    verbatim: bool = True

    def bound(self, answer: Answer) -> float | None:
        """The value that our figure is compared with, in the figure's unit."""
        if answer.bound is not None:
            return answer.bound
        if answer.holds == "at-most" and self.figure.upper is not None:
            return self.figure.upper
        return self.figure.value


_KEYS = {one.name for one in fields(Claim)}
_REQUIRED = ("id", "title", "quote", "figure", "uses", "system")


def load(figures: Sequence[Figure], file: Path = CLAIMS_FILE) -> Sequence[Claim]:
    """Every claim, in the file's order. Raises ClaimError, which names the entry."""
    known = {one.id: one for one in figures}
    try:
        data = yaml.load(file.read_text(encoding="utf-8"), SAFE)
    except yaml.YAMLError as error:
        raise ClaimError(f"{file} is not YAML: {error}") from error
    found: list[Claim] = []
    for number, one in enumerate(data or ()):
        name = f"{file.name}: {one.get('id', number) if isinstance(one, dict) else number}"
        found.append(_claim(one, known, name))
        if any(before.id == found[-1].id for before in found[:-1]):
            raise ClaimError(f"{name}: duplicate id")
    return found


def _claim(data: Any, known: Mapping[str, Figure], name: str) -> Claim:
    if not isinstance(data, dict):
        raise ClaimError(f"{name}: must be a mapping")
    missing = [key for key in _REQUIRED if not data.get(key)]
    unknown = sorted(set(data) - _KEYS)
    if missing or unknown:
        raise ClaimError(f"{name}: missing {missing}, unknown {unknown}")
    if data["figure"] not in known:
        raise ClaimError(
            f"{name}: unknown published figure {data['figure']!r}",
            hint="add it to a file in results/published/, with its source and date",
        )
    try:
        answers = [Answer(**one) for one in data.get("answers", ())]
    except (TypeError, ValueError) as error:
        raise ClaimError(f"{name}: invalid answer: {error}") from error
    claim = Claim(**{**data, "figure": known[data["figure"]], "answers": answers})
    for answer in answers:
        if answer.comparable and claim.bound(answer) is None:
            raise ClaimError(
                f"{name}: the claim has no number: give the answer {answer.metric} a bound"
            )
    return claim

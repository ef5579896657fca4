"""Claims as data: who says what, under which clock, and which series of ours can answer.

`claims.yaml` beside this file holds them. What a claim says stands in results/published/, once;
here stands its wording, what it is thought to have measured, and what answers it. Adding a claim is
adding an entry.
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
    """An entry of claims.yaml that must not be shown as it stands."""


@dataclass(frozen=True)
class Answer:
    """A series of ours that speaks to a claim.

    `where` are dimensions that it must have; `holds` says on which side of the claimed value ours
    must lie; `comparable` whether the two measure the same thing, and `why` or why not. `per`
    names a metric of the same record whose samples are counted, to divide by. `pooled` takes the
    samples of every series that fits, not of one. `bound` stands for a claim that is no number.
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

    def __post_init__(self) -> None:
        if self.holds not in HOLDS or self.statistic not in STATISTICS:
            raise ValueError(f"holds is one of {HOLDS}, statistic one of {STATISTICS}")
        if not isinstance(self.comparable, bool) or not self.why:
            raise ValueError("comparable is true or false, and why says why")


@dataclass(frozen=True)
class Claim:
    """One claim: `figure` is its value as published; `uses` the rung or definition behind it.

    `quote` is its wording, or where `verbatim` is False what it says in ours.
    """

    id: str
    title: str
    quote: str
    figure: Figure
    uses: str
    answers: Sequence[Answer]
    limits: Sequence[str] = ()
    front: bool = False
    verbatim: bool = True

    def bound(self, answer: Answer) -> float | None:
        """The value that ours is set against, in the figure's unit."""
        if answer.bound is not None:
            return answer.bound
        if answer.holds == "at-most" and self.figure.upper is not None:
            return self.figure.upper
        return self.figure.value


_KEYS = {one.name for one in fields(Claim)}


def load(figures: Sequence[Figure], file: Path = CLAIMS_FILE) -> Sequence[Claim]:
    """Every claim in the file's order. Raises ClaimError, which names the entry."""
    known = {one.id: one for one in figures}
    try:
        data = yaml.load(file.read_text(), SAFE)
    except yaml.YAMLError as error:
        raise ClaimError(f"{file} is not YAML: {error}") from error
    found: list[Claim] = []
    for number, one in enumerate(data or ()):
        name = f"{file.name}: {one.get('id', number) if isinstance(one, dict) else number}"
        found.append(_claim(one, known, name))
        if any(before.id == found[-1].id for before in found[:-1]):
            raise ClaimError(f"{name}: that id is taken")
    return found


def _claim(data: Any, known: Mapping[str, Figure], name: str) -> Claim:
    if not isinstance(data, dict):
        raise ClaimError(f"{name}: must be a mapping")
    missing = [key for key in ("id", "title", "quote", "figure", "uses") if not data.get(key)]
    unknown = sorted(set(data) - _KEYS)
    if missing or unknown:
        raise ClaimError(f"{name}: missing {missing}, unknown {unknown}")
    if data["figure"] not in known:
        raise ClaimError(
            f"{name}: no published figure is called {data['figure']!r}",
            hint="add it to a file in results/published/, with its source and date",
        )
    try:
        answers = [Answer(**one) for one in data.get("answers", ())]
    except (TypeError, ValueError) as error:
        raise ClaimError(f"{name}: an answer is wrong: {error}") from error
    claim = Claim(**{**data, "figure": known[data["figure"]], "answers": answers})
    for answer in answers:
        if answer.comparable and claim.bound(answer) is None:
            raise ClaimError(f"{name}: nothing to compare with: give {answer.metric} a bound")
    return claim

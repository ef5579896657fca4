"""The commands that renew the figures on which claims rest, where something has changed since."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from harness.claims.claims import Claim
from harness.site.data import evidence
from harness.site.data.corpus import Corpus


@dataclass(frozen=True)
class Renewal:
    """A command, what has changed since it ran, and the claims that rest on its figures."""

    command: str
    changes: dict[str, None] = field(default_factory=dict)
    claims: list[Claim] = field(default_factory=list)


def renewals(corpus: Corpus) -> Sequence[Renewal]:
    """Of the corpus's machine, in the order of the claims."""
    found: dict[str, Renewal] = {}
    for claim in corpus.claims:
        decided = evidence.deciding(evidence.judged(corpus, claim, corpus.machine))
        for mark in decided.finding.marks if decided else ():
            one = found.setdefault(mark.command, Renewal(mark.command))
            one.changes[mark.text] = None
            if claim not in one.claims:
                one.claims.append(claim)
    return list(found.values())

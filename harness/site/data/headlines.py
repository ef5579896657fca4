"""The claims of the original Coppice (FreeBSD) that the front page shows, with what was measured
here and what was proved on FreeBSD."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.claims.claims import Claim
from harness.claims.verdict import JUDGED, Verdict
from harness.site.data import evidence
from harness.site.data.corpus import Corpus
from harness.site.data.evidence import Found, Judged

HEADLINES = ("coppice-thousand", "coppice-density", "coppice-cold-start")
"""The three figures at the top of its front page."""
TIERS = ("coppice-full-boot", "coppice-durable-pool", "coppice-cold-start", "coppice-prewarm")
FLEETS = (
    "coppice-eight",
    "coppice-fifty",
    "coppice-two-hundred",
    "coppice-four-hundred",
    "coppice-density",
)
NETWORK = (
    "coppice-network-rtt",
    "coppice-network-rtt-p99",
    "coppice-network-throughput",
    "coppice-policy-update",
    "coppice-policy-enforcement",
)


@dataclass(frozen=True)
class ClaimRow:
    """A claim, the answer that decides it on the corpus's machine, and the series that show on
    other machines that it works."""

    claim: Claim
    judged: Judged | None
    proofs: Sequence[Found]


@dataclass(frozen=True)
class Tally:
    """How many claims there are, and how many have each verdict; judged are those with a verdict
    on the merits."""

    claims: int
    judged: Sequence[tuple[Verdict, int]]
    unjudged: Sequence[tuple[Verdict, int]]

    @property
    def judged_count(self) -> int:
        return sum(many for _, many in self.judged)


def row(corpus: Corpus, claim: Claim) -> ClaimRow:
    several = evidence.judged(corpus, claim, corpus.machine)
    first: dict[str, Found] = {}
    for one in evidence.proofs(corpus, claim):
        first.setdefault(one.entry.summary.machine.id, one)
    return ClaimRow(claim, evidence.deciding(several), list(first.values()))


def rows(corpus: Corpus, ids: Iterable[str]) -> Sequence[ClaimRow]:
    """Those of the claims that are known, in this order."""
    known = {claim.id: claim for claim in corpus.claims}
    return [row(corpus, known[id]) for id in ids if id in known]


def tally(corpus: Corpus) -> Tally:
    """Of all claims."""
    counts = evidence.tally(
        [
            evidence.deciding(evidence.judged(corpus, claim, corpus.machine))
            for claim in corpus.claims
        ]
    )
    known = [(verdict, many) for verdict, many in counts.items() if many]
    return Tally(
        sum(counts.values()),
        [one for one in known if one[0] in JUDGED],
        [one for one in known if one[0] not in JUDGED],
    )

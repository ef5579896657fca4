"""The rungs of a creation over an API, from one request: of our gateway and of each service."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from harness.measure.record import Scalar, Series
from harness.site.data import network, services
from harness.site.data.corpus import Corpus, RecordEntry
from harness.site.data.storms import Found

RIG = "e2b-latency"
RUNGS = ("create-headers", "create-body", "usable", "first-run-code")
_EARLIER = {"usable": "first-command"}
"""What older records call a rung."""
_LETTERS = 14
"""Of a name in a chart."""


@dataclass(frozen=True)
class ApiRow:
    """A service or gateway at one concurrency, with the series of each rung."""

    name: str
    concurrency: int
    entry: RecordEntry
    rungs: Mapping[str, Series]

    @property
    def label(self) -> str:
        many = "one at a time" if self.concurrency == 1 else f"{self.concurrency} at once"
        return f"{self.name}, {many}"

    @property
    def short(self) -> str:
        """The label as a chart on a phone has room for it."""
        endpoint = self.entry.summary.endpoint
        name = endpoint.name if endpoint else self.name.replace(" over", "")
        name = name if len(name) <= _LETTERS else f"{name[: _LETTERS - 1]}…"
        return f"{name}, {'alone' if self.concurrency == 1 else f'{self.concurrency} at once'}"

    def find(self, rung: str) -> Found | None:
        return (self.entry, self.rungs[rung]) if rung in self.rungs else None


def rows(corpus: Corpus) -> Sequence[ApiRow]:
    """Our gateway first, `noop` last, then every service by its newest record of this rig."""
    made: list[ApiRow] = []
    ours = network.newest(corpus, RIG)
    if ours:
        for substrate in sorted(map(str, ours.values("substrate")), key=lambda one: one == "noop"):
            made += _rows(ours.entry, f"gateway over {substrate}", substrate=substrate)
    for entries in corpus.endpoints.values():
        several = [one for one in entries if one.summary.rig.id == RIG]
        endpoint = several[-1].summary.endpoint if several else None
        if endpoint:
            best = [one for one in several if one.summary.validity.status == "valid"] or several
            made += _rows(best[-1], services.title(endpoint), system=endpoint.system)
    return made


def _rows(entry: RecordEntry, name: str, **of: Scalar) -> Iterator[ApiRow]:
    by: dict[int, dict[str, Series]] = {}
    for rung in RUNGS:
        for metric in (rung, _EARLIER.get(rung, rung)):
            for one in entry.record.series:
                many = one.dimensions.get("concurrency")
                if (
                    one.metric == metric
                    and one.samples
                    and isinstance(many, int)
                    and one.dimensions.get("sdk") == "http"
                    and all(one.dimensions.get(key) == value for key, value in of.items())
                ):
                    by.setdefault(many, {}).setdefault(rung, one)
    for many, rungs in sorted(by.items()):
        yield ApiRow(name, many, entry, rungs)

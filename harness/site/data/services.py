"""How pages name a service under test, and where its page is."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.claims import systems
from harness.measure.endpoint_facts import EndpointFacts
from harness.measure.record import Series
from harness.site.data.addresses import slug
from harness.site.data.corpus import Corpus, RecordEntry

ROUND_TRIP = "round-trip"
"""The series of the round trip to a service, which no figure of the service leaves out."""
_DIGITS = 6


@dataclass(frozen=True)
class Service:
    """A service with its records, oldest first."""

    identity: str
    entries: Sequence[RecordEntry]

    @property
    def facts(self) -> EndpointFacts:
        """What its newest record says of it."""
        found = self.entries[-1].summary.endpoint
        assert found
        return found

    @property
    def clients(self) -> Sequence[RecordEntry]:
        """The newest record from each machine that it was measured from, the newest first."""
        newest = {entry.summary.machine.id: entry for entry in self.entries}
        return sorted(newest.values(), key=lambda one: one.summary.run_id, reverse=True)


def found(corpus: Corpus, machine: str | None = None) -> Iterator[Service]:
    """Every service, or those that were measured from one machine, with their records."""
    for identity, entries in corpus.endpoints.items():
        own = [one for one in entries if machine in (None, one.summary.machine.id)]
        if own:
            yield Service(identity, own)


def round_trips(entry: RecordEntry) -> Sequence[Series]:
    """What the network between client and service took, by kind of round trip."""
    series = entry.record.series
    return [one for one in series if one.metric == ROUND_TRIP and one.samples]


def page(endpoint: EndpointFacts) -> str:
    """The page of a service. Two services may have one name."""
    digest = hashlib.sha256(endpoint.identity.encode()).hexdigest()[:_DIGITS]
    return f"services/{slug(endpoint.name)[:60]}-{digest}.html"


def title(endpoint: EndpointFacts) -> str:
    """The service by name, with the system that serves there."""
    return f"{endpoint.name} ({systems.title(endpoint.system)})"

"""The newest figure of every series of a machine, or of a service under test."""

from __future__ import annotations

from collections.abc import Sequence

from harness.site.data.corpus import Corpus, RecordEntry
from harness.site.data.record_summary import Rank, SeriesSummary
from harness.site.data.series_kind import KindKey
from harness.site.data.tracks import DETAILS

Key = tuple[str, KindKey]


Newest = dict[str, list[tuple[RecordEntry, SeriesSummary]]]


def newest(corpus: Corpus, machine: str | None) -> Newest:
    """By rig, the best record of each series that is the machine's own, by RecordSummary.rank and
    then the newest; function-only ones only if there is no other."""
    several = corpus.machines.get(machine or "", ())
    return _newest([entry for entry in several if not entry.summary.endpoint])


def of_endpoint(corpus: Corpus, identity: str) -> Newest:
    """The same of a service under test, measured from whatever machine."""
    return _newest(corpus.endpoints.get(identity, ()))


def _newest(entries: Sequence[RecordEntry]) -> Newest:
    chosen: dict[Key, tuple[RecordEntry, SeriesSummary]] = {}
    for entry in entries:
        for series in entry.summary.series:
            if series.metric in DETAILS:
                continue
            key = (entry.summary.rig.id, series.kind.key)
            before = chosen.get(key)
            if before and _rank(*before) > _rank(entry, series):
                continue
            chosen[key] = (entry, series)
    by_rig: dict[str, list[tuple[RecordEntry, SeriesSummary]]] = {}
    for (rig, *_), found in chosen.items():
        by_rig.setdefault(rig, []).append(found)
    return dict(sorted(by_rig.items()))


def _rank(entry: RecordEntry, series: SeriesSummary) -> tuple[bool, Rank]:
    return not entry.summary.proves(series), entry.summary.rank(series)

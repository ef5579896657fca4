"""The newest figure of every series of a machine."""

from __future__ import annotations

from harness.measure.record import Scalar
from harness.site.data.corpus import Corpus, RecordEntry
from harness.site.data.record_summary import Rank, SeriesSummary
from harness.site.data.tracks import DETAILS

Key = tuple[str, tuple[str, tuple[tuple[str, Scalar], ...]]]


def newest(
    corpus: Corpus, machine: str | None
) -> dict[str, list[tuple[RecordEntry, SeriesSummary]]]:
    """By rig, the best record of each series, by RecordSummary.rank and then the newest;
    function-only ones only if there is no other."""
    chosen: dict[Key, tuple[RecordEntry, SeriesSummary]] = {}
    for entry in corpus.machines.get(machine or "", ()):
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
    return not entry.summary.function_only, entry.summary.rank(series)

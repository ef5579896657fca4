"""The conditions under which a series was measured, where its record alone does not state them."""

from __future__ import annotations

from typing import cast

from harness.claims import systems
from harness.site.data.corpus import Corpus, RecordEntry
from harness.site.data.record_summary import SeriesSummary

EMULATOR = "tcg"


def accelerator(corpus: Corpus, entry: RecordEntry, series: SeriesSummary) -> str | None:
    """What ran the guests of a series; None if it has none, or if nobody knows.

    Older records of some rigs do not state it. For them it is that of the machine's nearest record
    that does.
    """
    if not systems.has_guests(series.dimensions):
        return None
    own = series.dimensions.get("accelerator", entry.summary.machine.accelerator)
    return str(own) if own is not None else _of_machine(corpus, entry)


def _of_machine(corpus: Corpus, entry: RecordEntry) -> str | None:
    key = (_of_machine, entry.page)
    if key not in corpus.memo:
        several = corpus.machines[entry.summary.machine.id]
        at = next(n for n, one in enumerate(several) if one.page == entry.page)
        stated = [n for n, one in enumerate(several) if one.summary.machine.accelerator]
        nearest = min(stated, key=lambda n: abs(n - at), default=None)
        found = None if nearest is None else several[nearest].summary.machine.accelerator
        corpus.memo[key] = found
    return cast("str | None", corpus.memo[key])


def emulated(corpus: Corpus, entry: RecordEntry, series: SeriesSummary) -> bool:
    """Whether the guests of a series ran in software, without hardware virtualisation."""
    return accelerator(corpus, entry, series) == EMULATOR

"""What a chart's rows must be read with: emulation, reach, rehearsal, and the days of the runs."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

from harness.site.data import figures
from harness.site.data.corpus import RecordEntry
from harness.site.data.figures import AnySeries

WIDTH = 44
"""Characters of a line under a row's name, which must fit on a phone."""

Drawn = tuple[str, RecordEntry, AnySeries]
"""A row's name, its record and its series."""


def of(rows: Iterable[Drawn]) -> Sequence[str]:
    """Sentences for a whole chart, each naming the rows that it is about, unless it is all."""
    several = list(rows)
    names = [name for name, _, _ in several]
    noted = [(name, figures.notes(entry, series)) for name, entry, series in several]
    found = []
    for note in dict.fromkeys(note for _, notes in noted for note in notes):
        having = [name for name, notes in noted if note in notes]
        found.append(f"{note[0].upper()}{note[1:]}: {_named(having, names)}.")
    days = days_of(entry for _, entry, _ in several)
    if len(days) > 1:
        by_day = [
            f"{day}: {_named([name for name, entry, _ in several if entry.date == day], names)}"
            for day in days
        ]
        found.append(f"{DIFFERENT_DAYS} {'. '.join(by_day)}.")
    return found


DIFFERENT_DAYS = "Measured on different days, so that a difference may be one of the days."


def _named(having: Sequence[str], all: Sequence[str]) -> str:
    """Some of a chart's rows: by the first part of their names where every row that begins so is
    among them, else with the last parts of those that are."""
    if len(having) == len(all):
        return "all"
    whole, parts = list[str](), dict[tuple[str, ...], list[str]]()
    for first, lasts in _parted(having).items():
        if lasts == _parted(all)[first]:
            whole.append(first)
        else:
            parts.setdefault(lasts, []).append(first)
    some = [
        f"{', '.join(lasts)} of {_listed(firsts)}"
        if len(firsts) > 1
        else f"{firsts[0]} ({', '.join(lasts)})"
        for lasts, firsts in parts.items()
    ]
    return "; ".join(filter(None, [_listed(whole), *some]))


def _listed(names: Sequence[str]) -> str:
    return ("; " if any("," in name for name in names) else ", ").join(names)


def _parted(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Names by all but their last part; a name of one part is its own first."""
    found: dict[str, list[str]] = {}
    for name in names:
        first, comma, last = name.rpartition(", ")
        found.setdefault(first if comma else last, []).append(last)
    return {first: tuple(lasts) for first, lasts in found.items()}


def days_of(entries: Iterable[RecordEntry]) -> Sequence[str]:
    return sorted({entry.date for entry in entries})


def under(
    entry: RecordEntry, series: AnySeries, *, dated: bool, divided: bool = False
) -> Sequence[str]:
    """Lines that stand under a row's name; `dated` where the chart has rows of several days.

    A `divided` row shows other values than its series, so its runs are not compared.
    """
    spread = "" if divided else figures.spread(entry, series)
    notes = [*figures.notes(entry, series), spread, entry.date if dated else ""]
    return textwrap.wrap(", ".join(filter(None, notes)), WIDTH)

"""Changelog of results: day by day which records came, and which verdicts and figures moved."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from xml.sax.saxutils import escape, quoteattr

from harness.site.data import machines
from harness.site.data.changelog import Day, Standing, day_of, days
from harness.site.data.corpus import Corpus, RecordEntry
from harness.site.data.files import as_json
from harness.site.data.run_list import title
from harness.site.page import Asset, Document, Group, Item, Nav, Page

_RECORDS = 200
"""The most records that a day's page names; of each machine at least three."""
_MOVES = 100


def _by_rig(entries: Sequence[RecordEntry]) -> Mapping[str, Sequence[RecordEntry]]:
    found: dict[str, list[RecordEntry]] = {}
    for entry in entries:
        found.setdefault(entry.summary.rig.id, []).append(entry)
    return dict(sorted(found.items()))


def _states(entries: Sequence[RecordEntry]) -> str:
    """How many records there are, and how many are not valid."""
    bad = [one.summary.validity.status for one in entries if one.status_note]
    counted = [f"{bad.count(status)} {status}" for status in dict.fromkeys(sorted(bad))]
    many = f"{len(entries)} record{'s' if len(entries) > 1 else ''}"
    return f"{many}, {', '.join(counted)}" if counted else many


def _machines(corpus: Corpus) -> Mapping[str, str]:
    return {
        id: machines.title(several[-1].summary.machine) for id, several in corpus.machines.items()
    }


def _shown(corpus: Corpus, day: str) -> Mapping[str, object]:
    """What the templates need to show a day."""
    found = day_of(corpus, day)
    return {
        "day": found,
        "named": _machines(corpus),
        "most": max(3, _RECORDS // max(len(found.records), 1)),
        "most_moves": _MOVES,
        "by_rig": _by_rig,
        "states": _states,
        "title": title,
    }


def _day(corpus: Corpus, day: str) -> Iterator[Document | Asset]:
    shown = _shown(corpus, day)
    yield Document(
        f"changes/{day}.html",
        "changes_day.html",
        f"What changed on {day}",
        "Which records came, and which verdicts and figures moved.",
        shown,
    )
    found = shown["day"]
    assert isinstance(found, Day)
    yield Asset(f"changes/{day}.json", as_json({"schema": "coppice.changes/1", **_data(found)}))


def _newest(corpus: Corpus, known: Sequence[str]) -> Iterator[Document | Asset]:
    """The list of days, with all of the newest."""
    counts = Counter(entry.date for entry in corpus.entries)
    yield Document(
        "changes.html",
        "changes.html",
        "What changed",
        "Day by day: which records came, and which verdicts and figures moved.",
        {
            **(_shown(corpus, known[0]) if known else {"day": None}),
            "days": [(day, counts[day]) for day in known[1:]],
        },
    )
    rows = [{"day": day, "records": counts[day], "file": f"changes/{day}.json"} for day in known]
    yield Asset("changes.json", as_json({"schema": "coppice.changes-index/1", "days": rows}))
    yield Asset("changes.xml", _feed(corpus, known))


def _data(found: Day) -> Mapping[str, object]:
    return {
        "day": found.day,
        "records": [one.raw for several in found.records.values() for one in several],
        "moves": [
            {
                "claim": one.claim.id,
                "machine": one.machine,
                "unit": one.claim.figure.unit,
                "before": _standing(one.before),
                "after": _standing(one.after),
                "factor": one.factor,
            }
            for one in found.moves
        ],
    }


def _standing(one: Standing) -> Mapping[str, object]:
    return {
        "verdict": one.verdict,
        "value": one.estimate.value if one.estimate else None,
        "record": one.entry.raw if one.entry else None,
    }


def _feed(corpus: Corpus, known: Sequence[str]) -> bytes:
    """Atom, with an entry for each day."""
    by_day: dict[str, list[RecordEntry]] = {day: [] for day in known}
    for entry in corpus.entries:
        if entry.date in by_day:
            by_day[entry.date].append(entry)
    ended = {day: max(one.summary.finished for one in found) for day, found in by_day.items()}
    parts = [
        '<?xml version="1.0" encoding="utf-8"?>',
        '<feed xmlns="http://www.w3.org/2005/Atom">',
        "<title>Coppice: what changed</title>",
        f"<id>{escape(corpus.address)}changes.xml</id>",
        f'<link rel="self" href={quoteattr(corpus.address + "changes.xml")}/>',
        f"<link href={quoteattr(corpus.address + 'changes.html')}/>",
        f"<updated>{escape(ended[known[0]] if known else corpus.today + 'T00:00:00Z')}</updated>",
        "<author><name>Coppice</name></author>",
    ]
    for day, found in by_day.items():
        address = f"{corpus.address}changes/{day}.html"
        of = sorted({one.summary.rig.id for one in found})
        parts += [
            "<entry>",
            f"<title>{day}: {escape(_states(found))}</title>",
            f"<id>{escape(address)}</id>",
            f"<link href={quoteattr(address)}/>",
            f"<updated>{escape(ended[day])}</updated>",
            f"<summary>{escape(', '.join(of))}</summary>",
            "</entry>",
        ]
    return ("\n".join([*parts, "</feed>"]) + "\n").encode()


def _render(corpus: Corpus) -> Iterator[Item]:
    known = days(corpus)
    # A day's page depends on every record up to then: a running digest stands for these.
    names = "\n".join(f"{id} {name}" for id, name in _machines(corpus).items())
    so_far, by_day = hashlib.sha256(names.encode()), {}
    for day, entries in itertools.groupby(
        sorted(corpus.entries, key=lambda one: one.date), key=lambda one: one.date
    ):
        for entry in entries:
            so_far.update(f"{entry.raw} {entry.summary.sha256}\n".encode())
        by_day[day] = so_far.hexdigest()
    for day in known:
        yield Group(f"changes/{day}", [by_day[day]], lambda day=day: _day(corpus, day))  # type: ignore[misc]
    yield Group("changes", [*known, so_far.hexdigest()], lambda: _newest(corpus, known))


PAGE = Page(_render, Nav("What changed", "changes.html", 54, foot=True), long=True)

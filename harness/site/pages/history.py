"""History: every series that was measured more than once on a machine, run by run, rig by rig."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from harness.measure.comparison import Outcome
from harness.site.charts.chart import ChartRow
from harness.site.charts.history import HistoryPicture, HistoryPoint
from harness.site.data import machines
from harness.site.data.addresses import slug
from harness.site.data.corpus import Corpus
from harness.site.data.files import as_csv, as_json
from harness.site.data.machine_days import MachineDay
from harness.site.data.tracks import Point, Track, machine_days, tracks
from harness.site.page import Asset, Document, Group, Item, Nav, Page

_CHARTED = 4
"""The fewest runs of which a chart is drawn; fewer are read from the table at once."""
_DRAWN, _ROWS = 100, 40
"""The most runs in a chart, and in a table; the CSV has all."""
_LISTED = 120
"""The most series in one list."""
_PAGE = 100_000
"""About how many bytes a page may have; the rest of a rig's series follow on further pages."""
_TRACK, _ROW, _DRAWING, _MARK = 560, 620, 2600, 120
"""About how many bytes a series, a row, a drawing and each run in that take."""
COLUMNS = (
    "series", "metric", "dimensions", "profile", "day", "run", "commit", "validity", "n", "failed",
    "p50", "low", "high", "unit", "change", "machine_moved", "record",
)  # fmt: skip


@dataclass(frozen=True)
class Shown:
    """A track as its page shows it, newest first. `hidden` counts the runs that it leaves out."""

    track: Track
    picture: HistoryPicture | None
    rows: Sequence[tuple[Point, Point | None]]
    hidden: int


@dataclass(frozen=True)
class Part:
    """One page of a rig's series. `path` has no suffix."""

    path: str
    tracks: Sequence[Track]


def title_of(track: Track) -> str:
    return f"{track.title}: {track.series.name}"


def picture_of(track: Track) -> HistoryPicture:
    """The newest runs as a picture."""
    runs = [
        HistoryPoint(one.entry.date, one.median, one.entry.summary.validity.status, one.change)
        for one in track.points[-_DRAWN:]
    ]
    title = f"{title_of(track)}, run by run"
    return HistoryPicture(f"{track.anchor}-chart", title, track.series.unit, runs)


def rows_of(track: Track) -> Sequence[ChartRow]:
    """All runs as the rows of a chart's table."""
    return [
        ChartRow(f"{one.entry.date} {one.entry.summary.run_id[-8:]}", one.entry, one.series)
        for one in track.points
    ]


def _shown(track: Track) -> Shown:
    several = [*zip(track.points[1:], track.points, strict=False)][::-1]
    rows: list[tuple[Point, Point | None]] = [*several, (track.points[0], None)]
    picture = picture_of(track) if len(track.points) >= _CHARTED else None
    return Shown(track, picture, rows[:_ROWS], max(0, len(rows) - _ROWS))


def _bytes(track: Track) -> int:
    runs = len(track.points)
    drawn = _DRAWING + _MARK * min(runs, _DRAWN) if runs >= _CHARTED else 0
    return _TRACK + drawn + _ROW * min(runs, _ROWS)


def parts_of(machine: str, found: Sequence[Track]) -> Mapping[str, Sequence[Part]]:
    """The pages of each rig and service under test, which have as many as their series need."""
    by_rig: dict[str, list[list[Track]]] = {}
    room: dict[str, int] = {}
    for one in found:
        pages = by_rig.setdefault(one.title, [])
        size = _bytes(one)
        if not pages or room[one.title] < size:
            pages.append([])
            room[one.title] = _PAGE
        pages[-1].append(one)
        room[one.title] -= size
    return {
        rig: [
            Part(f"history/{slug(machine)}.{slug(rig)}{f'.{n}' if n > 1 else ''}", several)
            for n, several in enumerate(pages, 1)
        ]
        for rig, pages in by_rig.items()
    }


def _page(
    part: Part, pages: Sequence[Part], days: Sequence[MachineDay], above: tuple[str, str]
) -> Iterator[Document | Asset]:
    rig = part.tracks[0].title
    yield Document(
        f"{part.path}.html",
        "history_rig.html",
        f"History of {rig} on {above[1]}",
        f"How every series of {rig} changed from run to run on one machine.",
        {
            "rig": rig,
            "series": [_shown(one) for one in part.tracks],
            "part": part,
            "pages": pages,
            "days": days,
            "above": above,
        },
    )
    yield Asset(f"{part.path}.csv", as_csv(COLUMNS, [*_csv(part.tracks)]))


def _csv(found: Sequence[Track]) -> Iterator[Sequence[object]]:
    for track in found:
        facts = ", ".join(f"{k}={v}" for k, v in sorted(track.series.dimensions.items()))
        for at, one in enumerate(track.points):
            summary = one.entry.summary
            yield (
                track.anchor, track.series.metric, facts, summary.profile, one.entry.date,
                summary.run_id, summary.git.commit, summary.validity.status, one.series.n,
                one.series.failed, one.median.value, one.median.low, one.median.high,
                track.series.unit, str(one.change) if at else None,
                one.day.factor if one.day else None, one.entry.raw,
            )  # fmt: skip


def _groups(
    parts: Mapping[str, Sequence[Part]], days: Sequence[MachineDay], above: tuple[str, str]
) -> Iterator[Group]:
    for pages in parts.values():
        for part in pages:
            moved = {one.day for track in part.tracks for one in track.points if one.day}
            own = [day for day in days if day in moved]

            def make(
                part: Part = part,
                pages: Sequence[Part] = pages,
                own: Sequence[MachineDay] = own,
            ) -> Iterator[Document | Asset]:
                return _page(part, pages, own, above)

            inputs = [above[1], *(one.path for one in pages), *map(repr, own)]
            for track in part.tracks:
                inputs += [
                    f"{one.entry.summary.sha256} {one.series.anchor} {one.day is None}"
                    for one in track.points
                ]
            yield Group(part.path, inputs, make)


def _render(corpus: Corpus) -> Iterator[Item]:
    by_machine: dict[str, Sequence[Track]] = {}
    places: dict[int, str] = {}
    for machine, entries in corpus.machines.items():
        name = machines.title(entries[-1].summary.machine)
        found = by_machine[machine] = tracks(corpus, machine)
        parts, days = parts_of(machine, found), machine_days(corpus, machine)
        above = f"history/{slug(machine)}.html"
        yield from _groups(parts, days, (above, name))
        for part in (part for pages in parts.values() for part in pages):
            places |= {id(one): f"{part.path}.html#{one.anchor}" for one in part.tracks}
        yield _machine(above, name, found, parts, days, places)
    yield Document(
        "history.html",
        "history.html",
        "History and regressions",
        "How every series changed from run to run, by machine.",
        {
            "machines": {
                id: (
                    corpus.machines[id][-1].summary.machine,
                    found,
                    _counts(found),
                    machine_days(corpus, id),
                )
                for id, found in by_machine.items()
            }
        },
    )
    yield Asset("regressions.json", _regressions(by_machine, places))


def _machine(
    path: str,
    name: str,
    found: Sequence[Track],
    parts: Mapping[str, Sequence[Part]],
    days: Sequence[MachineDay],
    places: Mapping[int, str],
) -> Document:
    """A machine's page: days on which it moved, what changed in the newest runs, and its rigs."""
    order = {Outcome.WORSE: 0, Outcome.BETTER: 1}
    changed = [one for one in found if one.newest.changed]
    changed.sort(key=lambda one: (bool(one.newest.day), order[one.newest.change]))
    return Document(
        path,
        "history_machine.html",
        f"History of {name}",
        "Series that were measured more than once, and how they changed.",
        {
            "tracks": [(one, places[id(one)]) for one in changed[:_LISTED]],
            "hidden": max(len(changed) - _LISTED, 0),
            "days": days,
            "rigs": {
                rig: (f"{pages[0].path}.html", sum(len(part.tracks) for part in pages))
                for rig, pages in parts.items()
            },
        },
    )


def _counts(found: Sequence[Track]) -> Mapping[str, int]:
    counts = {
        str(outcome): sum(one.newest.change is outcome for one in found)
        for outcome in (Outcome.WORSE, Outcome.BETTER)
    }
    return {**counts, "moved": sum(one.newest.changed and bool(one.newest.day) for one in found)}


def _regressions(by_machine: Mapping[str, Sequence[Track]], places: Mapping[int, str]) -> bytes:
    rows = [
        {
            "machine": machine,
            "rig": one.rig,
            "service": one.series.kind.endpoint or None,
            "metric": one.series.metric,
            "dimensions": dict(one.series.dimensions),
            "page": places[id(one)],
            "before": one.previous.median.value,
            "after": one.newest.median.value,
            "unit": one.series.unit,
            "commits": [one.previous.entry.summary.git.commit, one.newest.entry.summary.git.commit],
            "machine_moved": one.newest.day.factor if one.newest.day else None,
            "records": [one.previous.entry.raw, one.newest.entry.raw],
        }
        for machine, found in by_machine.items()
        for one in found
        if one.newest.change is Outcome.WORSE
    ]
    return as_json({"schema": "coppice.regressions/1", "regressions": rows})


PAGE = Page(_render, Nav("History", "history.html", 55, foot=True), long=True)

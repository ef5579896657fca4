"""History: every series that was measured more than once on a machine, run by run."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from harness.measure import comparison
from harness.measure.comparison import Outcome
from harness.measure.record import Scalar
from harness.measure.statistics import Estimate
from harness.site.charts.chart import Chart, ChartRow
from harness.site.charts.history import HistoryPicture, HistoryPoint
from harness.site.data import figures
from harness.site.data.addresses import slug
from harness.site.data.corpus import Corpus, RecordEntry
from harness.site.data.files import as_json
from harness.site.data.machines import title
from harness.site.data.record_summary import SeriesSummary
from harness.site.page import Asset, Document, Group, Item, Nav, Page

_SHOWN = 100
"""The most runs that a series' chart and table show; the CSV has all."""
_LISTED = 120
"""The most series in one list."""
DETAILS = ("footprint", "wakes", "host-memory", "retransmits", "cpu", "sent", "idle-switches")
"""Metrics that explain others; they have no history page of their own."""

Key = tuple[str, str, tuple[str, tuple[tuple[str, Scalar], ...]]]
"""A rig, a profile, and the kind of a series."""


@dataclass(frozen=True)
class Track:
    """One series over its runs, oldest first."""

    machine: str
    rig: str
    runs: Sequence[tuple[RecordEntry, SeriesSummary]]
    changes: Sequence[Outcome]

    @property
    def series(self) -> SeriesSummary:
        return self.runs[-1][1]

    @property
    def name(self) -> str:
        """Its path without a suffix."""
        facts = "-".join(f"{k}-{v}" for k, v in sorted(self.series.dimensions.items()))
        return f"history/{slug(self.machine)}/{slug(f'{self.rig}-{self.series.metric}-{facts}')}"

    @property
    def last(self) -> Outcome:
        """How the newest run differs from the previous one."""
        return self.changes[-1] if self.changes else Outcome.SAME


def tracks(corpus: Corpus, machine: str) -> Sequence[Track]:
    """Every series with samples in at least two runs of one profile on a machine."""
    found: dict[Key, list[tuple[RecordEntry, SeriesSummary]]] = {}
    for entry in corpus.machines.get(machine, ()):
        if entry.summary.function_only or entry.summary.validity.status == "failed":
            continue
        rig, profile = entry.summary.rig.id, entry.summary.profile
        for series in entry.summary.series:
            if series.n and series.metric not in DETAILS:
                found.setdefault((rig, profile, series.kind.key), []).append((entry, series))
    made: dict[tuple[object, ...], Track] = {}
    for (rig, profile, key), runs in found.items():
        if len(runs) < 2:
            continue
        medians = [_median(series) for _, series in runs]
        one = Track(machine, rig, runs, comparison.changes(medians, runs[-1][1].better))
        # If two profiles qualify, the full one has the page.
        if profile == "full" or (rig, key) not in made:
            made[rig, key] = one
    return sorted(made.values(), key=lambda one: one.name)


def _median(series: SeriesSummary) -> Estimate:
    found = figures.get(series, "p50")
    assert found
    return found


def title_of(track: Track) -> str:
    return f"{track.rig}: {track.series.name}"


def chart_of(track: Track) -> Chart:
    """The newest runs as a picture, and all of them as rows."""
    recent = range(max(0, len(track.runs) - _SHOWN), len(track.runs))
    runs = [
        HistoryPoint(
            track.runs[n][0].date,
            _median(track.runs[n][1]),
            track.runs[n][0].summary.validity.status,
            track.changes[n - 1] if n else Outcome.SAME,
        )
        for n in recent
    ]
    title = title_of(track)
    picture = HistoryPicture("history", f"{title}, run by run", track.series.unit, runs)
    rows = [
        ChartRow(f"{entry.date} {entry.summary.run_id[-8:]}", entry, one)
        for entry, one in track.runs
    ]
    return Chart(track.name, title, picture, rows)


def _page(track: Track) -> Iterator[Document | Asset]:
    whole, title = chart_of(track), title_of(track)
    hidden = max(0, len(track.runs) - _SHOWN)
    yield from whole.assets()
    changed = [
        (track.runs[n][0], track.runs[n - 1][0], track.changes[n - 1])
        for n in range(1, len(track.runs))
        if track.changes[n - 1] in (Outcome.BETTER, Outcome.WORSE)
    ]
    yield Document(
        f"{track.name}.html",
        "history_series.html",
        title,
        f"{title}: every run on one machine, oldest first.",
        {
            "track": track,
            "chart": dataclasses.replace(whole, rows=whole.rows[hidden:][::-1]),
            "changed": changed[-30:][::-1],
            "hidden": hidden,
        },
    )


def _lists(machine: str, name: str, found: Sequence[Track]) -> Iterator[Document]:
    """A machine's page with what changed in the newest runs, and lists of all series by rig."""
    order = {Outcome.WORSE: 0, Outcome.BETTER: 1}
    changed = [one for one in found if one.last in order]
    changed.sort(key=lambda one: (order[one.last], one.name))
    stem = f"history/{slug(machine)}"
    rigs = {
        rig: [one for one in found if one.rig == rig] for rig in sorted({one.rig for one in found})
    }
    pages = {
        rig: [
            f"{stem}.{slug(rig)}{f'.{n // _LISTED + 1}' if n else ''}.html"
            for n in range(0, len(several), _LISTED)
        ]
        for rig, several in rigs.items()
    }
    about = "Series that were measured more than once, and how they changed."
    yield Document(
        f"{stem}.html",
        "history_machine.html",
        f"History of {name}",
        about,
        {
            "tracks": changed[:_LISTED],
            "hidden": max(len(changed) - _LISTED, 0),
            "rigs": {rig: (pages[rig][0], len(several)) for rig, several in rigs.items()},
        },
    )
    for rig, several in rigs.items():
        for number, path in enumerate(pages[rig]):
            yield Document(
                path,
                "history_rig.html",
                f"History of {rig} on {name}",
                about,
                {
                    "tracks": several[number * _LISTED : (number + 1) * _LISTED],
                    "pages": pages[rig],
                    "number": number,
                    "above": (f"{stem}.html", name),
                },
            )


def _render(corpus: Corpus) -> Iterator[Item]:
    by_machine: dict[str, Sequence[Track]] = {}
    for machine in corpus.machines:
        found = tracks(corpus, machine)
        by_machine[machine] = found
        yield from _lists(machine, title(corpus.machines[machine][-1].summary.machine), found)
        for track in found:
            inputs = [f"{e.summary.sha256} {series.anchor}" for e, series in track.runs]

            def make(track: Track = track) -> Iterator[Document | Asset]:
                # A history shows what changed; marks would make it depend on other records.
                runs = [(entry.unmarked, series) for entry, series in track.runs]
                return _page(dataclasses.replace(track, runs=runs))

            yield Group(track.name, inputs, make)
    yield Document(
        "history.html",
        "history.html",
        "History and regressions",
        "How every series changed from run to run, by machine.",
        {
            "machines": {
                id: (corpus.machines[id][-1].summary.machine, found, _counts(found))
                for id, found in by_machine.items()
            }
        },
    )
    yield Asset("regressions.json", _regressions(by_machine))


def _counts(found: Sequence[Track]) -> Mapping[str, int]:
    return {
        str(outcome): sum(one.last is outcome for one in found)
        for outcome in (Outcome.WORSE, Outcome.BETTER)
    }


def _regressions(by_machine: Mapping[str, Sequence[Track]]) -> bytes:
    rows = [
        {
            "machine": machine,
            "rig": one.rig,
            "metric": one.series.metric,
            "dimensions": dict(one.series.dimensions),
            "page": f"{one.name}.html",
            "before": _median(one.runs[-2][1]).value,
            "after": _median(one.runs[-1][1]).value,
            "unit": one.series.unit,
            "records": [one.runs[-2][0].raw, one.runs[-1][0].raw],
        }
        for machine, found in by_machine.items()
        for one in found
        if one.last is Outcome.WORSE
    ]
    return as_json({"schema": "coppice.regressions/1", "regressions": rows})


PAGE = Page(_render, Nav("History", "history.html", 55, foot=True), long=True)

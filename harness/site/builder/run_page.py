"""The files of one run: its page, the record itself, every sample as CSV, its main chart as SVG."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence

from markupsafe import Markup

from harness.claims.claims import Claim
from harness.measure.record import RunRecord
from harness.site.builder import linked_data
from harness.site.builder.page import Asset, Document
from harness.site.charts import chart
from harness.site.charts.series import ecdf_chart, order_chart
from harness.site.data import cold_start, figures, run_rows
from harness.site.data.corpus import Entry
from harness.site.data.record_summary import PERCENTILES, Brief, Line, fits

CHARTED = 3
"""Samples from which a series has charts."""
_A_PAGE = 10
"""Series whose charts stand on one page at most; the rest follow on further pages."""
_POINTS, _MOST = 2400, 600
"""Points of all charts of a page together, and of one chart."""
_ROWS = 200_000
"""Samples of a run beyond which its CSV holds them no longer: the record does."""


def headline(one: Brief) -> Line | None:
    """The series that stands for a run in a list."""
    for line in one.lines:
        if line.metric == cold_start.HEADLINE:
            return line
    # What the harness costs alone stands for a run only where there is nothing else.
    return min(one.lines, key=lambda line: line.dimensions.get("substrate") == cold_start.NOOP,
               default=None)  # fmt: skip


def title(one: Brief) -> str:
    """The rig and what distinguishes this run: dimensions that all of its series share."""
    if not one.lines:
        return one.rig.id
    shared = [
        f"{value}" if isinstance(value, str) else f"{name} {value}"
        for name, value in one.lines[0].dimensions.items()
        if name != "accelerator"
        and value is not None
        and all(line.dimensions.get(name) == value for line in one.lines)
    ]
    return ", ".join([one.rig.id, *shared])


def speaks_to(one: Brief, claims: Sequence[Claim]) -> Sequence[Claim]:
    """Claims that a series of this run can answer."""
    return [
        claim
        for claim in claims
        if any(
            answer.rig == one.rig.id
            and any(
                line.metric == answer.metric and fits(line.dimensions, answer.where)
                for line in one.lines
            )
            for answer in claim.answers
        )
    ]


def files_of_run(
    entry: Entry, content: bytes, claims: Sequence[Claim]
) -> Iterator[Document | Asset]:
    """Everything that the site has of one run; of this record and the claims' list alone."""
    record = entry.record
    charted = [
        number
        for number, one in enumerate(record.series)
        if len(one.samples) >= CHARTED and not figures.withheld(entry, one)
    ]
    # The table of a record with many series takes the room of charts.
    size = max(3, _A_PAGE - len(record.series) // 12)
    several = max(1, -(-len(charted) // size))
    stems = [entry.page, *(f"{entry.place.stem}.{n}.html" for n in range(2, several + 1))]
    rows = run_rows.rows(entry, {one: stems[at // size] for at, one in enumerate(charted)})
    parts = [[one for one in rows if one.page == stem] for stem in stems]
    first: Markup | None = None
    # A table of times says nothing of why they must not be believed; the record does.
    has_samples = _many(record) <= _ROWS and not entry.brief.function_only
    files = {entry.raw: "application/json"}
    if has_samples:
        files[f"{entry.place.stem}.csv"] = "text/csv"
    name = title(entry.brief)
    linked = linked_data.of_run(record, name, entry.page, files)
    for number, part in enumerate(parts):
        charts = dict(_charts(part))
        if first is None:
            first = next((drawn[0] for drawn in charts.values()), None)
        yield Document(
            stems[number],
            "run.html" if number == 0 else "run_more.html",
            name,
            f"Run record {record.run_id}: provenance and every sample.",
            {
                "entry": entry,
                "record": record,
                "rows": rows,
                "columns": run_rows.columns(entry),
                "charts": charts,
                "part": part,
                "parts": stems,
                "number": number,
                "uncharted": [one for one in rows if not one.page],
                "facts": sorted({*record.machine.before, *record.machine.after}),
                "percentiles": PERCENTILES,
                "claims": speaks_to(entry.brief, claims),
                "has_picture": bool(charted),
                "has_samples": has_samples,
                **({"linked_data": linked} if number == 0 else {}),
            },
        )
    yield Asset(entry.raw, content)
    if has_samples:
        yield Asset(f"{entry.place.stem}.csv", _csv(record))
    if first is not None:
        yield Asset(f"{entry.place.stem}.svg", chart.standalone(first))


def _many(record: RunRecord) -> int:
    return sum(len(one.samples) for one in record.series)


def _charts(part: Sequence[run_rows.Row]) -> Iterator[tuple[str, tuple[Markup, Markup]]]:
    """By the anchor of the series: its samples in order, and their distribution."""
    most = min(_MOST, _POINTS // max(len(part), 1))
    for one in part:
        known = one.line.estimates
        order = order_chart(f"order-{one.number}", one.series, most, known)
        yield one.anchor, (order, ecdf_chart(f"ecdf-{one.number}", one.series, most, known))


def _csv(record: RunRecord) -> bytes:
    """One line a sample, in measurement order: metric, its dimensions, place, value."""
    names = sorted({name for one in record.series for name in one.dimensions})
    lines = [_cells(["metric", *names, "unit", "sample", "value"])]
    for one in record.series:
        facts = [chart.harmless(one.dimensions.get(name)) for name in names]
        head = _cells([chart.harmless(one.metric), *facts, one.unit])
        lines += [f"{head},{at},{value!r}" for at, value in enumerate(one.samples)]
    return "\n".join([*lines, ""]).encode()


def _cells(cells: Sequence[object]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow(cells)
    return out.getvalue()


def rows_of(entries: Sequence[Entry]) -> Sequence[Mapping[str, object]]:
    """What a list of runs shows of each."""
    return [
        {
            "entry": entry,
            "title": title(entry.brief),
            "series": headline(entry.brief),
        }
        for entry in entries
    ]

"""The files of one run: its page, the record, every sample as CSV, the main chart as SVG.

Not in pages/, because a run's files are made as soon as its record is read, not from the corpus."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence

from markupsafe import Markup

from harness.claims.claims import Claim
from harness.measure.record import RunRecord
from harness.site.charts import chart
from harness.site.charts.series import ecdf_chart, order_chart
from harness.site.data import figures, files, linked_data, run_rows
from harness.site.data.corpus import RecordEntry
from harness.site.data.estimates import PERCENTILES
from harness.site.data.run_list import answerable, title
from harness.site.page import Asset, Document

CHARTED = 3
"""The fewest samples for which a series has charts."""
_A_PAGE = 10
"""The most series with charts on one page; the rest follow on further pages."""
_POINTS, _MOST = 2400, 600
"""The most points on a page, and in one chart."""
_ROWS = 200_000
"""The most samples for which a run has a CSV file; the record has them in any case."""


def files_of_run(
    entry: RecordEntry, content: bytes, claims: Sequence[Claim]
) -> Iterator[Document | Asset]:
    """All files of one run; they depend on this record and the list of claims only."""
    record = entry.record
    charted = [
        number
        for number, one in enumerate(record.series)
        if len(one.samples) >= CHARTED and not figures.withheld(entry, one)
    ]
    # A long table of series leaves less room for charts.
    size = max(3, _A_PAGE - len(record.series) // 12)
    several = max(1, -(-len(charted) // size))
    stems = [entry.page, *(f"{entry.place.stem}.{n}.html" for n in range(2, several + 1))]
    rows = run_rows.rows(entry, {one: stems[at // size] for at, one in enumerate(charted)})
    parts = [[one for one in rows if one.page == stem] for stem in stems]
    first: Markup | None = None
    # A CSV would lack the reason why the figures are not valid; the record has it.
    has_samples = _many(record) <= _ROWS and not any(
        map(entry.summary.proves, entry.summary.series)
    )
    formats = {entry.raw: "application/json"}
    if has_samples:
        formats[f"{entry.place.stem}.csv"] = "text/csv"
    name = title(entry.summary)
    linked = linked_data.of_run(record, name, entry.page, formats)
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
                "claims": answerable(entry.summary, claims),
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


def _charts(part: Sequence[run_rows.SeriesRow]) -> Iterator[tuple[str, tuple[Markup, Markup]]]:
    """For each series, by anchor: a chart of its samples in order, and of their distribution."""
    most = min(_MOST, _POINTS // max(len(part), 1))
    for one in part:
        known = one.summary.estimates
        order = order_chart(f"order-{one.number}", one.series, most, known)
        yield one.anchor, (order, ecdf_chart(f"ecdf-{one.number}", one.series, most, known))


def _csv(record: RunRecord) -> bytes:
    """One line per sample, in measurement order: metric, dimensions, index, value."""
    names = sorted({name for one in record.series for name in one.dimensions})
    lines = [_cells(["metric", *names, "unit", "sample", "value"])]
    for one in record.series:
        facts = [files.harmless(one.dimensions.get(name)) for name in names]
        head = _cells([files.harmless(one.metric), *facts, one.unit])
        lines += [f"{head},{at},{value!r}" for at, value in enumerate(one.samples)]
    return "\n".join([*lines, ""]).encode()


def _cells(cells: Sequence[object]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow(cells)
    return out.getvalue()

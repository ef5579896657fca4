"""Records as a table in the terminal: each series with its median, its interval and its failures.

Dimensions shared by all series of a record are in its heading, the others in the series' rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.measure.conditions import NOT_RECORDED
from harness.measure.quantity import scale, show, show_interval
from harness.measure.record import NOT_OFFERED, RunRecord, Series, conditions_of, load
from harness.measure.statistics import summarise

ACCELERATOR = "accelerator"
"""The image of a record that says why its accelerator was chosen."""
FOLDED = 24
"""The number of series shown of a record."""


def lines(paths: Sequence[Path]) -> Iterator[str]:
    """The lines of the table of these record files, in their order."""
    for path in paths:
        record = load(path)
        yield ""
        yield f"{record.rig.id}: {_facts(_shared(record)) or 'all'}   {path.name}"
        for series in record.series[:FOLDED]:
            yield f"  {_label(record, series):44} {_numbers(series, record)}"
        if len(record.series) > FOLDED:
            yield f"  and {len(record.series) - FOLDED} more series in the record"
        if record.validity.status != "valid":
            yield f"  {record.validity.status}: {'; '.join(record.validity.reasons)}"


def _facts(dimensions: Sequence[tuple[str, object]]) -> str:
    return ", ".join(f"{name} {value}" for name, value in dimensions if value is not None)


def _shared(record: RunRecord) -> Sequence[tuple[str, object]]:
    first = record.series[0].dimensions if record.series else {}
    return [
        (name, value)
        for name, value in first.items()
        if all(
            name in series.dimensions and series.dimensions[name] == value
            for series in record.series
        )
    ]


def _label(record: RunRecord, series: Series) -> str:
    shared = dict(_shared(record))
    own = [(name, value) for name, value in series.dimensions.items() if name not in shared]
    return " ".join(part for part in (series.metric, _facts(own)) if part)


def _numbers(series: Series, record: RunRecord) -> str:
    missing = sum(failure.kind == NOT_OFFERED for failure in series.failures)
    failures = len(series.failures) - missing
    failed = f"  {failures} failed" if failures else ""
    if not series.samples:
        return f"{'not offered' if missing and not failures else 'no sample':>12}{failed}"
    median = summarise(series.samples).median
    conditions = conditions_of(series, record.machine)
    bounds = "" if conditions.readings else show_interval(median, series.unit)
    if bounds:
        bounds = f"{bounds} {scale(median.value, series.unit)[1]}".strip()
    of_host = [note for note in conditions.notes if note != NOT_RECORDED or record.endpoint is None]
    notes = [*of_host, *(["repeated readings"] if conditions.readings else [])]
    read_with = f"  {', '.join(notes)}" if notes and series.unit != "1" else ""
    n = f"n={len(series.samples)}"
    return f"{show(median, series.unit):>12}  {bounds:22} {n}{failed}{read_with}"


def emulated_beside_kvm(records: Sequence[RunRecord]) -> Iterator[str]:
    """Why guests were emulated although /dev/kvm opens; each reason once."""
    reasons = {
        str(image.built_from["reason"]): None
        for record in records
        for image in record.images
        if image.name == ACCELERATOR
        and image.built_from.get("name") == "tcg"
        and image.built_from.get("tried")
    }
    for reason in reasons:
        yield f"guests were emulated (TCG) although /dev/kvm opens: {reason}"
        yield "  coppice doctor --again tries it anew"

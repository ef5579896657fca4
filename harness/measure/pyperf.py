"""Exports a record as pyperf JSON (format 1.0), for its commands compare_to, hist and check.

pyperf supports times, bytes and counts above zero. A series becomes a benchmark, and each sample a
run with one value, which keeps their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.errors import UsageError
from harness.measure.record import RunRecord, Series

_UNITS = {"s": "second", "bytes": "byte", "1": "integer"}


def suite(record: RunRecord, metrics: Sequence[str] = ()) -> dict[str, Any]:
    """The series that pyperf supports, or those of `metrics`. UsageError when there is none."""
    chosen = [
        series
        for series in record.series
        if series.unit in _UNITS
        and series.samples
        and min(series.samples) > 0
        and (not metrics or series.metric in metrics)
    ]
    if not chosen:
        raise UsageError(
            f"{record.run_id} has no series that pyperf supports",
            hint="pyperf supports seconds, bytes and counts above zero; choose one with --metric",
        )
    common = {
        "hostname": record.machine.id,
        "cpu_model_name": record.machine.cpu,
        "platform": f"{record.machine.os}, {record.machine.kernel}",
        "coppice_run": record.run_id,
        "coppice_rig": record.rig.id,
        "coppice_validity": record.validity.status,
    }
    return {
        "version": "1.0",
        "metadata": common,
        "benchmarks": [_benchmark(record, series) for series in chosen],
    }


def _benchmark(record: RunRecord, series: Series) -> dict[str, Any]:
    facts = [f"{name}={value}" for name, value in sorted(series.dimensions.items())]
    unit = _UNITS[series.unit]
    values = [int(value) if unit == "integer" else value for value in series.samples]
    return {
        "metadata": {
            "name": " ".join([record.rig.id, series.metric, *facts]),
            "unit": unit,
            "loops": 1,
        },
        "runs": [{"values": [value]} for value in values],
    }

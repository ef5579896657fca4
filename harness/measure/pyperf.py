"""A record as pyperf's JSON (format 1.0), for its compare_to, hist and check.

pyperf knows times, bytes and counts above zero. Each series becomes a benchmark, each sample a run
of one value, so that their order is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.errors import UsageError
from harness.measure.record import RunRecord, Series

_UNITS = {"s": "second", "bytes": "byte", "1": "integer"}


def suite(record: RunRecord, metrics: Sequence[str] = ()) -> dict[str, Any]:
    """The series that pyperf can hold, or those of `metrics`. UsageError when there is none."""
    chosen = [
        one
        for one in record.series
        if one.unit in _UNITS
        and one.samples
        and min(one.samples) > 0
        and (not metrics or one.metric in metrics)
    ]
    if not chosen:
        raise UsageError(
            f"{record.run_id} has no series that pyperf can hold",
            hint="it knows seconds, bytes and counts, all above zero; name one with --metric",
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
        "benchmarks": [_benchmark(record, one) for one in chosen],
    }


def _benchmark(record: RunRecord, series: Series) -> dict[str, Any]:
    facts = [f"{name}={value}" for name, value in sorted(series.dimensions.items())]
    unit = _UNITS[series.unit]
    values = [int(one) if unit == "integer" else one for one in series.samples]
    return {
        "metadata": {
            "name": " ".join([record.rig.id, series.metric, *facts]),
            "unit": unit,
            "loops": 1,
        },
        "runs": [{"values": [one]} for one in values],
    }

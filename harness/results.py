"""Run records as a pandas DataFrame, for notebooks and other tools.

::

    from harness import results

    frame = results.load("results/**")     # a row per sample
    results.summary(frame)                 # a row per series: medians, percentiles, intervals

`COLUMNS` documents each column with its type and unit. The dimensions of the series (`substrate`,
`tier`, `n`, ...) follow as further columns with their own names; columns about the machine begin
with `machine_`, so that they do not collide with dimensions such as `cores` or `kernel`.

This module needs pandas, so nothing that measures imports it.
"""

from __future__ import annotations

import glob
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy
import pandas

from harness.claims import systems
from harness.errors import RecordError, UsageError
from harness.measure import record as records
from harness.measure.conditions import SYSTEM
from harness.measure.record import RunRecord, Scalar, Series, conditions_of, function_only
from harness.measure.selection import plain
from harness.measure.statistics import summarise
from harness.strict_json import readable

__all__ = [
    "COLUMNS", "FIGURES", "PERCENTILES", "PHASES", "Column", "RecordSkipped", "frame", "load",
    "read", "summary",
]  # fmt: skip

SUFFIX = ".run.json"
PERCENTILES = (90, 95, 99)
"""The percentiles in `summary`, besides the median."""

Sources = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]
Found = Iterable[tuple[Path, RunRecord, Sequence[int]]]
"""A record's file, the record, and the numbers of the selected series."""


@dataclass(frozen=True)
class Column:
    """`dtype` is a pandas dtype; all rows of a record or series share the value if `of` says so."""

    name: str
    dtype: str
    of: Literal["record", "series", "sample"]
    meaning: str


COLUMNS = (
    Column("run_id", "category", "record", "the run: its start in UTC and eight random digits"),
    Column("started", "datetime64[us, UTC]", "record", "when the run began"),
    Column("rig", "category", "record", "the rig that measured, such as cold-start"),
    Column("profile", "category", "record", "how many samples were wanted: quick or full"),
    Column("validity", "category", "record", "valid, suspect (something disturbed it) or failed"),
    Column("commit", "category", "record", "commit of the code that measured; missing: unknown"),
    Column("dirty", "boolean", "record", "whether that code had uncommitted changes"),
    Column("harness", "category", "record", "version of the harness"),
    Column(
        "endpoint", "category", "record",
        "the service under test by name; missing: the sandboxes were the machine's own",
    ),
    Column("endpoint_address", "category", "record", "the address of its API"),
    Column("machine", "category", "record", "stable id of the host or client: its directory"),
    Column("machine_name", "category", "record", "a descriptive name of the host"),
    Column("machine_class", "category", "record", "bare-metal, virtual-machine or emulated"),
    Column("machine_cpu", "category", "record", "its processor"),
    Column("machine_cores", "int64", "record", "how many cores it has"),
    Column("machine_memory", "int64", "record", "its memory in bytes"),
    Column("machine_os", "category", "record", "its operating system"),
    Column("machine_kernel", "category", "record", "its kernel"),
    Column("machine_virtualisation", "category", "record", "the hypervisor it runs on, or none"),
    Column(
        "machine_accelerator", "category", "record",
        "the accelerator of the guests: kvm, tcg, vmm; missing: no guest",
    ),
    Column("record", "category", "record", "path of the record's file"),
    Column("series", "int64", "series", "index of the series in its record, from 0"),
    Column(
        "function_only", "category", "series",
        "why its times must not be used; missing: they may",
    ),
    Column("metric", "category", "series", "what was measured, such as first-reply"),
    Column("unit", "category", "series", "unit of `value`: s, bytes, bytes/s, 1/s or 1 (a count)"),
    Column("better", "category", "series", "lower or higher: which values are better"),
    Column(
        "loop", "category", "series",
        "closed: each attempt waits for the previous; open: attempts start by the clock",
    ),
    Column(
        "system", "category", "series",
        "what was measured, such as qemu; of an endpoint, the system that serves there",
    ),
    Column(
        "guest_accelerator", "category", "series",
        "what ran the guests of this series: kvm, tcg (emulated), vmm, none; missing: not recorded",
    ),
    Column(
        "reach", "category", "series",
        "where the figure is possible: any host, possible under TCG only, function only",
    ),
    Column(
        "program_rehearsed", "boolean", "series",
        "whether the program that is waited for had run before hand-out; missing: no program",
    ),
    Column(
        "readings", "boolean", "series",
        "whether the samples are repeated readings of one meter, whose spread is no interval",
    ),
    Column("phase", "category", "sample", "sample, warmup or failure"),
    Column(
        "index", "int64", "sample",
        "index of the attempt in measurement order, from 0; warm-up is counted separately",
    ),
    Column("value", "float64", "sample", "the measured value in `unit`; missing for a failure"),
    Column("failure", "category", "sample", "why the attempt failed; missing for all others"),
    Column(
        "failure_kind", "category", "sample",
        "failed, refused, lost, missing, differs or not-offered; missing for all others",
    ),
)  # fmt: skip
"""Every column except dimensions, in order. Missing values are NaN, NaT or <NA>, never 0."""

FIGURES = (
    "samples", "failed", "min",
    *(f"p{percent}{bound}" for percent in (50, *PERCENTILES) for bound in ("", "_low", "_high")),
    "max",
)  # fmt: skip
"""The columns that `summary` adds."""
_TAKEN = {*(column.name for column in COLUMNS), *FIGURES}
PHASES = ("sample", "warmup", "failure")
FAILED = "failed"
"""The kind of a plain failure, which records leave out."""


class RecordSkipped(UserWarning):
    """A record that could not be read was skipped."""


def load(sources: Sources, *, errors: Literal["raise", "skip"] = "raise") -> pandas.DataFrame:
    """A row for each sample, warm-up sample and failure of the records (see `phase`).

    `sources` is a record's file, a directory, a glob such as "results/**", or several of these;
    directories and globs yield only files named *.run.json. A record that cannot be read, or whose
    schema is unknown, raises RecordError or UnknownSchema; with errors="skip" it is skipped with a
    RecordSkipped warning. Raises UsageError if there is no record.
    """
    return frame(
        (path, record, range(len(record.series))) for path, record in read(sources, errors=errors)
    )


def read(
    sources: Sources, *, errors: Literal["raise", "skip"] = "raise"
) -> Iterator[tuple[Path, RunRecord]]:
    """The records that `sources` name, as for `load`, each with its file."""
    if errors not in ("raise", "skip"):
        raise UsageError(f"errors={errors!r} is neither 'raise' nor 'skip'")
    for path in _files(sources):
        try:
            yield path, records.load(path)
        except RecordError as error:
            if errors == "raise":
                raise
            warnings.warn(f"skipped: {error}", RecordSkipped, stacklevel=3)


def _files(sources: Sources) -> Sequence[Path]:
    """Every record's file once, in the order of the sources, by name within a source."""
    several = [sources] if isinstance(sources, str | os.PathLike) else list(sources)
    found: dict[Path, Path] = {}
    for source in several:
        matching = list(_matching(os.fspath(source)))
        if not matching:
            raise UsageError(
                f"no run record at {os.fspath(source)}",
                hint=f"name a directory of records, or files that end in {SUFFIX}",
            )
        for path in matching:
            found.setdefault(path.resolve(), path)
    if not found:
        raise UsageError("no source of run records was given")
    return list(found.values())


def _matching(source: str) -> Iterator[Path]:
    path = Path(source)
    if path.is_dir():
        yield from sorted(path.rglob(f"*{SUFFIX}"))
    elif path.exists():
        yield path
    else:
        # Not Path.glob, which rejects absolute patterns.
        for name in sorted(glob.glob(source, recursive=True)):  # noqa: PTH207
            if name.endswith(SUFFIX):
                yield Path(name)


def frame(found: Found) -> pandas.DataFrame:
    """The same as `load`, for records in memory and for some of their series."""
    facts: list[dict[str, Any]] = []
    dimensions: dict[str, list[Scalar]] = {}
    counts: list[int] = []
    values: list[float] = []
    indices: list[int] = []
    phases: list[int] = []
    reasons: list[str | None] = []
    kinds: list[str | None] = []
    for path, record, numbers in found:
        of_record = _of_record(record, path)
        for number in numbers:
            series = record.series[number]
            facts.append(of_record | _of_series(series, number, record))
            for name, value in series.dimensions.items():
                if name == SYSTEM:  # a column of every series
                    continue
                given = dimensions.setdefault(_dimension_name(name), [])
                given += [None] * (len(facts) - 1 - len(given))
                given.append(value)
            counts.append(len(series.samples) + len(series.warmup) + len(series.failures))
            _append(series, values, indices, phases)
            reasons += [None] * (len(series.samples) + len(series.warmup))
            reasons += [failure.reason for failure in series.failures]
            kinds += [None] * (len(series.samples) + len(series.warmup))
            kinds += [failure.kind or FAILED for failure in series.failures]
    rows = numpy.repeat(numpy.arange(len(facts)), counts)
    # Built with a row per series and then repeated, because there may be a million samples.
    each = pandas.DataFrame(
        {column.name: _column(column, [fact[column.name] for fact in facts])
         for column in COLUMNS if column.of != "sample"}
    )  # fmt: skip
    spread = pandas.DataFrame(
        {
            name: _dimension_column([*given, *[None] * (len(facts) - len(given))])
            for name, given in dimensions.items()
        },
        index=each.index,
    )
    own = pandas.DataFrame(
        {
            "phase": pandas.Categorical.from_codes(numpy.array(phases, dtype="int8"), PHASES),
            "index": numpy.array(indices, dtype="int64"),
            "value": numpy.array(values, dtype="float64"),
            "failure": _category(reasons),
            "failure_kind": _category(kinds),
        }
    )
    parts = [part.take(rows).reset_index(drop=True) for part in (each, spread)]
    return pandas.concat([parts[0], own, parts[1]], axis="columns")


def _append(series: Series, values: list[float], indices: list[int], phases: list[int]) -> None:
    """The rows of one series: samples, then warm-up, then failures."""
    failed = {failure.index for failure in series.failures}
    attempts = (n for n in range(len(series.samples) + len(failed)) if n not in failed)
    for phase, several in enumerate((series.samples, series.warmup)):
        values += several
        phases += [phase] * len(several)
    indices += [next(attempts) for _ in series.samples]
    indices += range(len(series.warmup))
    values += [numpy.nan] * len(series.failures)
    indices += [failure.index for failure in series.failures]
    phases += [2] * len(series.failures)


def _of_record(record: RunRecord, path: Path) -> dict[str, Scalar]:
    machine = record.machine
    return {
        "run_id": record.run_id,
        "started": record.started,
        "rig": record.rig.id,
        "profile": record.profile,
        "validity": record.validity.status,
        "commit": record.git.commit,
        "dirty": record.git.dirty,
        "harness": record.harness.version,
        "endpoint": record.endpoint.name if record.endpoint else None,
        "endpoint_address": record.endpoint.address if record.endpoint else None,
        "machine": machine.id,
        "machine_name": machine.name,
        "machine_class": machine.class_,
        "machine_cpu": machine.cpu,
        "machine_cores": machine.cores,
        "machine_memory": machine.memory_bytes,
        "machine_os": machine.os,
        "machine_kernel": machine.kernel,
        "machine_virtualisation": machine.virtualisation,
        "machine_accelerator": machine.accelerator,
        "record": readable(str(path)),
    }


def _of_series(series: Series, number: int, record: RunRecord) -> dict[str, Scalar]:
    conditions = conditions_of(series, record.machine)
    return {
        "series": number,
        "metric": series.metric,
        "unit": series.unit,
        "better": series.better,
        "loop": series.loop,
        "system": systems.of_series(series.dimensions, record.machine.os, record.rig.id),
        "function_only": function_only(series, record.machine),
        "guest_accelerator": conditions.accelerator,
        "reach": str(conditions.reach),
        "program_rehearsed": conditions.rehearsed,
        "readings": conditions.readings,
    }


def _dimension_name(name: str) -> str:
    """The name of a dimension's column: the dimension's own, unless another column has it."""
    return f"dimension_{name}" if name in _TAKEN else name


def _column(column: Column, values: Sequence[Scalar]) -> pandas.Series:
    if column.dtype.startswith("datetime"):
        moments = pandas.to_datetime(list(values), utc=True, format="ISO8601")
        return pandas.Series(moments).astype(column.dtype)
    if column.dtype == "category":
        return pandas.Series(_category(values))
    return pandas.Series(values, dtype=column.dtype)


def _category(values: Sequence[Scalar]) -> pandas.Categorical:
    """Categories of text, also if all values are missing."""
    known = dict.fromkeys(value for value in values if value is not None)
    return pandas.Categorical(values, categories=pandas.Index(list(known), dtype="str"))


def _dimension_column(values: Sequence[Scalar]) -> pandas.Series:
    """A dimension's values as Int64, Float64 or boolean if all fit, else as categories of text."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int} and kinds:
        return pandas.Series(values, dtype="Int64")
    if kinds <= {int, float} and kinds:
        return pandas.Series(values, dtype="Float64")
    if kinds == {bool}:
        return pandas.Series(values, dtype="boolean")
    text = [None if value is None else plain(value) for value in values]
    return pandas.Series(_category(text))


def summary(frame: pandas.DataFrame) -> pandas.DataFrame:
    """A row per series: its facts and dimensions, then its figures in `unit`.

    `samples` and `failed` are counts; `min`, `p50`, `p90`, `p95`, `p99` and `max` are samples
    (nearest rank); `p50_low`, `p50_high` etc. are the bounds of 95 % order-statistic intervals. A
    percentile is missing if there are too few samples for it, and so are the bounds of repeated
    readings. Warm-up does not count. Runs differ by more than their samples: none are pooled.
    """
    keys = ["record", "series"]
    counted = frame[frame["phase"] != "warmup"]
    own = [column.name for column in COLUMNS if column.of == "sample"]
    heads = counted.drop_duplicates(keys).drop(columns=own)
    # Pandas would copy every column for each group; sorting and splitting the values avoids this.
    groups = counted.groupby(keys, observed=True, sort=False).ngroup().to_numpy()
    order = numpy.argsort(groups, kind="stable")
    cuts = numpy.flatnonzero(numpy.diff(groups[order])) + 1
    is_sample = (counted["phase"] == "sample").to_numpy()[order]
    values = counted["value"].to_numpy()[order]
    rows = [
        _figures(several[sample].tolist(), int((~sample).sum()))
        for several, sample in zip(
            numpy.split(values, cuts), numpy.split(is_sample, cuts), strict=True
        )
        if len(several)
    ]
    figures = pandas.DataFrame(rows, columns=list(FIGURES)).astype(
        {name: "int64" if name in ("samples", "failed") else "float64" for name in FIGURES}
    )
    bounds = [name for name in FIGURES if name.endswith(("_low", "_high"))]
    figures.loc[heads["readings"].to_numpy(dtype=bool), bounds] = numpy.nan
    return pandas.concat([heads.reset_index(drop=True), figures], axis="columns")


def _figures(values: Sequence[float], failed: int) -> dict[str, float | None]:
    found: dict[str, float | None] = {"samples": len(values), "failed": failed}
    if values:
        shown = summarise(values, PERCENTILES)
        found |= {"min": shown.minimum, "max": shown.maximum}
        for percent, estimate in {50: shown.median, **shown.percentiles}.items():
            found |= {f"p{percent}": estimate.value, f"p{percent}_low": estimate.low}
            found[f"p{percent}_high"] = estimate.high
    return found

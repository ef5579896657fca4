"""Export records for other tools: CSV, Parquet, pyperf's JSON, or RO-Crate metadata.

coppice export --csv [SELECTOR ...] [--metric NAME] [--out FILE]
coppice export --parquet [SELECTOR ...] [--metric NAME] --out FILE
coppice export --pyperf RECORD [--metric NAME] [--out FILE]
coppice export --ro-crate [--results DIR]

CSV and Parquet have a row for each sample, warm-up sample and failure, with the columns of
harness/results.py. A SELECTOR, as for `coppice compare`, is a record's file, the beginning of a
run's id, or NAME=VALUE pairs joined by commas; without any, all records are exported.
"""

from __future__ import annotations

import argparse
import io
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import extras, option_types, paths, strict_json
from harness.errors import RecordError, UsageError
from harness.host import output_file
from harness.measure import pyperf
from harness.measure.record import RunRecord, load
from harness.measure.selection import located

if TYPE_CHECKING:
    import pandas

HELP = "export records for other tools: CSV, Parquet, pyperf, RO-Crate"
CRATE = "ro-crate-metadata.json"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "selectors", nargs="*", metavar="SELECTOR", help="which records and series (CSV, Parquet)"
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--csv", action="store_true", help="a row per sample, as CSV")
    what.add_argument("--parquet", action="store_true", help="a row per sample, as Parquet")
    what.add_argument(
        "--pyperf", type=option_types.path, metavar="RECORD", help="a record as pyperf's JSON"
    )
    what.add_argument(
        "--ro-crate", action="store_true", help=f"write {CRATE} into the directory of results"
    )
    parser.add_argument(
        "--metric", action="append", default=[], help="only this metric; may be repeated"
    )
    parser.add_argument(
        "--out", type=option_types.path, metavar="FILE", help="default: standard output"
    )
    option_types.add_results(parser)


def main(options: argparse.Namespace) -> int:
    if options.selectors and not (options.csv or options.parquet):
        raise UsageError(
            f"the selector {options.selectors[0]!r} has no effect here",
            hint="selectors work with --csv and --parquet",
        )
    if options.csv or options.parquet:
        return _samples(options)
    if options.pyperf:
        data = pyperf.suite(load(options.pyperf), options.metric)
        text = strict_json.dumps(data, ascii=True, indent=1, sort_keys=True) + "\n"
        if options.out:
            output_file.replace(options.out, lambda path: path.write_text(text, encoding="utf-8"))
        else:
            sys.stdout.write(text)
        return 0
    return _crate(options.results)


def _crate(results: Path) -> int:
    if not results.is_dir():
        raise UsageError(f"{results} is not a directory of records", hint="--results DIR names it")
    try:
        from harness.site.data import corpus, exports
    except ModuleNotFoundError as error:
        raise extras.missing("RO-Crate metadata", error) from error
    own = results / "published"
    found = corpus.load(results, own if own.is_dir() else paths.PUBLISHED)
    target = results / CRATE
    crate = exports.crate(found, lambda entry: entry.place.shown)
    content = exports.as_json(crate)
    output_file.replace(target, lambda path: path.write_bytes(content))
    print(f"{target}: {len(found.entries)} records")
    return 0


def _samples(options: argparse.Namespace) -> int:
    if options.parquet and not options.out:
        raise UsageError("Parquet is binary and needs a file", hint="add --out FILE")
    try:
        # pandas takes a second to load, so only these exports load it.
        if options.parquet:
            import pyarrow  # noqa: F401
        from harness import results
    except ModuleNotFoundError as error:
        what, extra = ("Parquet", "parquet") if options.parquet else ("CSV", "")
        raise extras.missing(what, error, extra) from error
    damaged: list[str] = []
    chosen = _chosen(options.selectors, options.results, set(options.metric), damaged)
    frame = results.frame(chosen)
    if frame.empty and damaged:
        raise RecordError(
            f"nothing to export from {options.results}: what is left out above is damaged"
        )
    if frame.empty:
        raise UsageError(
            f"no series in {options.results} matches",
            hint="coppice export --csv without --metric exports every metric",
        )
    if options.parquet:
        output_file.replace(
            options.out, lambda path: frame.to_parquet(path, engine="pyarrow", index=False)
        )
    elif options.out:
        output_file.replace(options.out, lambda path: _csv(frame, path))
    else:
        # UTF-8 as in a file, whatever the terminal's encoding.
        out = io.TextIOWrapper(sys.stdout.buffer, encoding="utf-8", newline="")
        try:
            _csv(frame, out)
            out.flush()
        finally:
            out.detach()
    if options.out:
        runs = frame["run_id"].nunique()
        print(f"{options.out}: {len(frame)} rows of {runs} {'run' if runs == 1 else 'runs'}")
    return 0


def _chosen(
    selectors: list[str], directory: Path, metrics: set[str], damaged: list[str]
) -> Iterator[tuple[Path, RunRecord, list[int]]]:
    """Each record once, with its series that match a selector and `metrics`. What cannot be read is
    shown and added to `damaged`."""
    chosen: dict[Path, tuple[RunRecord, set[int]]] = {}
    if not selectors:
        from harness import results

        if not directory.is_dir():
            raise UsageError(
                f"{directory} is not a directory of records", hint="--results DIR names it"
            )
        with warnings.catch_warnings(record=True) as skipped:
            warnings.simplefilter("always", results.RecordSkipped)
            for path, record in results.read(directory, errors="skip"):
                chosen[path] = record, set(range(len(record.series)))
        damaged += [str(warning.message) for warning in skipped]
        for message in damaged:
            print(f"coppice: {message}", file=sys.stderr)
    for selector in selectors:
        for path, record, series in located(selector, directory):
            known, numbers = chosen.setdefault(path, (record, set()))
            # By identity: equality would compare all samples.
            numbers.add(next(n for n, found in enumerate(record.series) if found is series))
            assert known.run_id == record.run_id
    for path, (record, numbers) in chosen.items():
        wanted = [n for n in sorted(numbers) if not metrics or record.series[n].metric in metrics]
        if wanted:
            yield path, record, wanted


def _csv(frame: pandas.DataFrame, target: Any) -> None:
    from harness.site.data.files import harmless

    guarded = frame.copy(deep=False)
    for name in frame.columns:
        if frame[name].dtype == "category":
            # Records may be untrusted: no cell may become a formula in a spreadsheet.
            guarded[name] = frame[name].cat.rename_categories(harmless)
    guarded.to_csv(target, index=False, date_format="%Y-%m-%dT%H:%M:%S.%fZ", lineterminator="\n")

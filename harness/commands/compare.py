"""Compare two records, configurations, commits or machines, series by series.

A and B are each a record's file, the beginning of a run's id, or NAME=VALUE pairs joined by commas
(rig, machine, commit, profile, kernel, interleave, or a dimension such as tier). Interleaved runs
(coppice run --interleave) are compared round by round.

Exit codes: 0 no series of B is worse; 1 a series is worse (see --fail-on); 64 nothing to compare.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from harness import paths, strict_json
from harness.errors import UsageError
from harness.measure.comparison import Outcome, Thresholds
from harness.measure.quantity import show, show_interval
from harness.measure.selection import SeriesComparison, Side, compare_sides, select

HELP = "compare two records, configurations, commits or machines"
FAIL_ON = ("worse", "different", "never")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", metavar="A", help="a record, or what several have in common")
    parser.add_argument("b", metavar="B", help="what is compared with A")
    parser.add_argument(
        "--results",
        type=Path,
        default=paths.default_results(),
        metavar="DIR",
        help="the directory of records (default: results)",
    )
    parser.add_argument(
        "--metric", action="append", default=[], help="only this metric; may be repeated"
    )
    parser.add_argument("--alpha", type=_alpha, default=Thresholds.alpha, help="default: 0.01")
    parser.add_argument(
        "--relative",
        type=_least,
        default=Thresholds.relative,
        metavar="SHARE",
        help="smallest difference that counts, as a share of A's median (default: 0.05)",
    )
    parser.add_argument(
        "--absolute",
        type=_least,
        default=Thresholds.absolute,
        metavar="VALUE",
        help="smallest difference that counts, in seconds or bytes (default: 0)",
    )
    parser.add_argument(
        "--fail-on",
        choices=FAIL_ON,
        default="worse",
        help="which outcome of a series makes the exit code 1 (default: worse)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _alpha(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text} is no probability between 0 and 1")
    return value


def _least(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no difference from 0 on")
    return value


def main(options: argparse.Namespace) -> int:
    thresholds = Thresholds(options.alpha, options.relative, options.absolute)
    a, b = select(options.a, options.results), select(options.b, options.results)
    rows = [
        row
        for row in compare_sides(a, b, thresholds)
        if not options.metric or row.metric in options.metric
    ]
    if options.metric and not rows:
        raise UsageError(
            f"no series of both has the metric {' or '.join(options.metric)}",
            hint="without --metric, all series that both have are compared",
        )
    if options.json:
        found = strict_json.without_infinities(as_json(a, b, rows, thresholds))
        print(strict_json.dumps(found, ascii=True, indent=1))
    else:
        for line in table(a, b, rows):
            print(line)
    bad = {"worse": {Outcome.WORSE}, "different": {Outcome.WORSE, Outcome.BETTER}}
    return int(any(row.comparison.outcome in bad.get(options.fail_on, ()) for row in rows))


def as_json(
    a: Side, b: Side, rows: Sequence[SeriesComparison], thresholds: Thresholds
) -> dict[str, object]:
    """The comparison as JSON types; medians in the records' units, the ratio is B / A."""
    return {
        "schema": "coppice.comparison/1",
        "a": a.text,
        "b": b.text,
        "thresholds": vars(thresholds),
        "rows": [
            {
                "rig": row.rig,
                "metric": row.metric,
                "unit": row.unit,
                "better": row.better,
                "dimensions": dict(row.dimensions),
                "records": list(map(list, row.records)),
                "samples": list(row.comparison.n),
                "pairs": row.comparison.pairs,
                "median": [row.comparison.before.value, row.comparison.after.value],
                "difference": row.comparison.difference,
                "ratio": vars(row.comparison.ratio),
                "p": row.comparison.p,
                "outcome": str(row.comparison.outcome),
            }
            for row in rows
        ],
    }


def table(a: Side, b: Side, rows: Sequence[SeriesComparison]) -> Sequence[str]:
    """The comparison as the lines of a table."""
    lines = [f"A: {a.text}", f"B: {b.text}", ""]
    lines.append(f"{'':44} {'A':>11} {'B':>11} {'B / A':>7} {'interval':>13} {'p':>8}")
    for row in rows:
        found = row.comparison
        facts = " ".join(f"{value}" for value in row.dimensions.values() if value is not None)
        bounds = show_interval(found.ratio, "1")
        how = f"{found.pairs} rounds" if found.pairs else f"n {found.n[0]}, {found.n[1]}"
        lines.append(
            f"{f'{row.metric} {facts}'[:44]:44} {show(found.before, row.unit):>11} "
            f"{show(found.after, row.unit):>11} {found.ratio.value:>7.3f} {bounds:>13} "
            f"{found.p:>8.2g}  {found.outcome} ({how})"
        )
    return lines

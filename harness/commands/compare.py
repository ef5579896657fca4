"""Compare two records, configurations, commits or machines, series by series.

A and B are each a record's file, the beginning of a run's id, or NAME=VALUE pairs joined by commas
(rig, machine, endpoint, commit, profile, kernel, interleave, or a dimension such as tier).
Interleaved runs (coppice run --interleave) are compared round by round.

Above the table stand the runs, whether they were interleaved, and in what else they differ. Series
of a record that is suspect, failed or function-only are shown, but not judged without --suspect.

Exit codes: 0 no series of B is worse; 1 a series is worse (see --fail-on); 64 nothing to compare;
65 a record cannot be read, or none is worse but some were not judged.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness import option_types, strict_json
from harness.errors import RecordError, UsageError
from harness.measure import record_differences
from harness.measure.comparison import Outcome, Thresholds
from harness.measure.quantity import show, show_interval
from harness.measure.record import RunRecord, Scalar
from harness.measure.selection import (
    SeriesComparison,
    Side,
    compare_sides,
    left_out,
    plain,
    select,
    varied,
)

HELP = "compare two records, configurations, commits or machines"
FAIL_ON = ("worse", "different", "never")
LABEL = 64
"""The most characters of a row's label."""
WARNED = 4
"""The most records that are warned of one by one."""
NOT_JUDGED = "not judged"
"""The outcome of a series whose records are not valid."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", metavar="A", help="a record, or what several have in common")
    parser.add_argument("b", metavar="B", help="what is compared with A")
    option_types.add_results(parser)
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
    parser.add_argument(
        "--suspect",
        action="store_true",
        help="judge series of suspect, failed and function-only records too",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _number(text: str) -> float:
    return option_types.decimal(text)


def _alpha(text: str) -> float:
    value = _number(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a probability between 0 and 1")
    return value


def _least(text: str) -> float:
    value = _number(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a difference from 0 on")
    return value


def main(options: argparse.Namespace) -> int:
    thresholds = Thresholds(options.alpha, options.relative, options.absolute)
    a, b = select(options.a, options.results), select(options.b, options.results)
    every = compare_sides(a, b, thresholds)
    rows = [row for row in every if not options.metric or row.metric in options.metric]
    if options.metric and not rows:
        raise UsageError(
            f"no series of both has the metric {' or '.join(options.metric)}",
            hint="without --metric, all series that both have are compared",
        )
    judged = [row for row in rows if options.suspect or not row.doubts]
    if options.json:
        found = strict_json.without_infinities(as_json(a, b, rows, thresholds, options.suspect))
        print(strict_json.dumps(found, ascii=True, indent=1))
    else:
        for line in (*heading(a, b, rows, every), *table(rows, options.suspect)):
            print(line)
    unjudged = len(rows) - len(judged)
    if rows and any(row.doubts for row in rows):
        _warn(rows, unjudged)
    if judged and all(row.comparison.outcome is Outcome.TOO_FEW for row in judged):
        sys.stdout.flush()
        print("coppice: warning: too few samples to judge any series", file=sys.stderr)
    bad = {"worse": {Outcome.WORSE}, "different": {Outcome.WORSE, Outcome.BETTER}}
    if any(row.comparison.outcome in bad.get(options.fail_on, ()) for row in judged):
        return 1
    return RecordError.exit_code if unjudged else 0


def _warn(rows: Sequence[SeriesComparison], unjudged: int) -> None:
    """Say on standard error which records decide nothing, and why."""
    sys.stdout.flush()
    of_a, of_b = (
        {
            one.run_id
            for one in record_differences.doubts_of(
                pair for row in rows for pair in row.matches[at]
            )
        }
        for at in (0, 1)
    )
    found = record_differences.doubts_of(
        pair for row in rows for side in row.matches for pair in side
    )
    for one in found[:WARNED]:
        side = " and ".join(name for name, ids in (("A", of_a), ("B", of_b)) if one.run_id in ids)
        print(f"coppice: warning: {side}, run {one.run_id}, is {one}", file=sys.stderr)
    if len(found) > WARNED:
        print(f"  and {len(found) - WARNED} more records", file=sys.stderr)
    if unjudged:
        print(
            f"  {unjudged} of {len(rows)} series {NOT_JUDGED}: measure again, "
            "or judge them too with --suspect",
            file=sys.stderr,
        )


def heading(
    a: Side, b: Side, rows: Sequence[SeriesComparison], every: Sequence[SeriesComparison]
) -> Sequence[str]:
    """What is compared: the runs of both sides, how they were run, in what they differ, and what is
    left out; `every` has the rows that --metric leaves out too."""
    sides = _used(rows)
    lines = [
        f"{name}: {_side(side.text, runs)}"
        for name, side, runs in zip("AB", (a, b), sides, strict=True)
    ]
    if changed := varied(a, b):
        facts = (f"{name} {' | '.join(values)}" for name, values in changed.items())
        lines.append(f"Varied: {', '.join(facts)}")
    paired = [row for row in rows if row.comparison.pairs]
    if len(paired) == len(rows):
        lines.append("Interleaved: the two took turns, so that a change of the machine meets both.")
    else:
        lines.append(
            "Not interleaved, so a change of the machine between the runs counts as a difference: "
            + _when(*map(record_differences.days, sides))
        )
    if {record.run_id for record in sides[0]} == {record.run_id for record in sides[1]}:
        lines[-1] = "Both are of the same runs."
    if found := record_differences.differences(*sides):
        lines.append("Different besides: " if paired else "Different:")
        lines += [f"  {one}" for one in found]
    for at, side in enumerate((a, b)):
        missing = left_out(side, at, every)
        lines += [f"Not compared: of {'AB'[at]}, {one}" for one in missing.without_samples]
        if missing.others:
            lines.append(f"Not compared: {missing.others} series that only {'AB'[at]} has")
    return [*lines, ""]


def _when(a: str, b: str) -> str:
    return f"both ran on {a}." if a == b else f"A ran on {a}, B on {b}."


def _used(
    rows: Sequence[SeriesComparison],
) -> tuple[Sequence[RunRecord], Sequence[RunRecord]]:
    """The records of both sides that the rows are of, each once, oldest first."""
    sides = []
    for at in (0, 1):
        unique = {record.run_id: record for row in rows for record in row.runs[at]}
        sides.append([unique[id] for id in sorted(unique)])
    return sides[0], sides[1]


def _side(text: str, runs: Sequence[RunRecord]) -> str:
    rigs = ", ".join(dict.fromkeys(record.rig.id for record in runs))
    if len(runs) == 1:
        which = f"run {runs[0].run_id} of {rigs}, {runs[0].started[:10]}, {runs[0].profile} profile"
    else:
        which = f"{len(runs)} runs of {rigs}, {record_differences.days(runs)}"
    bad = record_differences.doubts(runs)
    if not bad:
        state = "valid"
    elif len(runs) == 1:
        state = str(bad[0].status)
    else:
        state = f"{len(bad)} of {len(runs)} not valid"
    return f"{which}; {state}" if Path(text).is_file() else f"{text} ({which}; {state})"


def as_json(
    a: Side,
    b: Side,
    rows: Sequence[SeriesComparison],
    thresholds: Thresholds,
    suspect: bool = False,
) -> dict[str, object]:
    """The comparison as JSON types; medians in the records' units, the ratio is B / A."""
    sides = _used(rows)
    return {
        "schema": "coppice.comparison/1",
        "a": a.text,
        "b": b.text,
        "thresholds": vars(thresholds),
        "varied": {name: list(values) for name, values in varied(a, b).items()},
        "interleaved": all(row.comparison.pairs for row in rows),
        "differences": [
            {"fact": one.fact, "a": list(one.a), "b": list(one.b)}
            for one in record_differences.differences(*sides)
        ],
        "doubts": [
            {
                "run_id": one.run_id,
                "rig": one.rig,
                "status": one.status,
                "reasons": list(one.reasons),
            }
            for one in record_differences.doubts([*sides[0], *sides[1]])
        ],
        "rows": [
            {
                "rig": row.rig,
                "metric": row.metric,
                "unit": row.unit,
                "better": row.better,
                "dimensions": dict(row.dimensions),
                "own_dimensions": [dict(own) for own in row.own],
                "records": list(map(list, row.records)),
                "samples": list(row.comparison.n),
                "failed": list(row.failed),
                "pairs": row.comparison.pairs,
                "median": [row.comparison.before.value, row.comparison.after.value],
                "difference": row.comparison.difference,
                "ratio": vars(row.comparison.ratio),
                "p": row.comparison.p,
                "outcome": _outcome(row, suspect),
                "valid": not row.doubts,
            }
            for row in rows
        ],
    }


def _outcome(row: SeriesComparison, suspect: bool) -> str:
    return str(row.comparison.outcome) if suspect or not row.doubts else NOT_JUDGED


def table(rows: Sequence[SeriesComparison], suspect: bool = False) -> Sequence[str]:
    """The comparison as the lines of a table."""
    shared = _shared(rows)
    labels = [_label(row, shared) for row in rows]
    if shared:
        lines = [f"All: {', '.join(f'{name} {plain(value)}' for name, value in shared.items())}"]
    else:
        lines = []
    width = min(LABEL, max(map(len, labels), default=0))
    lines += [f"{'':{width}} {'A':>11} {'B':>11} {'B / A':>7} {'interval':>17} {'p':>8}"]
    for label, row in zip(labels, rows, strict=True):
        found = row.comparison
        # A ratio to nothing, or to less than nothing, says nothing.
        sound = found.before.value > 0 and math.isfinite(found.ratio.value)
        ratio = f"{found.ratio.value:.3f}" if sound else "-"
        bounds = show_interval(found.ratio, "1")
        how = f"{found.pairs} rounds" if found.pairs else f"n {found.n[0]}, {found.n[1]}"
        if any(row.failed):
            how += f", failed {row.failed[0]}, {row.failed[1]}"
        how = ", ".join([how, *dict.fromkeys(one.status for one in row.doubts)])
        lines.append(
            f"{label[:width]:{width}} {show(found.before, row.unit):>11} "
            f"{show(found.after, row.unit):>11} {ratio:>7} {bounds:>17} "
            f"{found.p:>8.2g}  {_outcome(row, suspect)} ({how})"
        )
    return lines


def _shared(rows: Sequence[SeriesComparison]) -> Mapping[str, Scalar]:
    """The dimensions that all rows have with the same value."""
    first = rows[0].dimensions if rows else {}
    return {
        name: value
        for name, value in first.items()
        if value is not None
        and all(name in row.dimensions and row.dimensions[name] == value for row in rows)
    }


def _label(row: SeriesComparison, shared: Mapping[str, Scalar]) -> str:
    """The metric and what both sides share; then what only one side knows, with its letter."""
    facts = [_fact(name, value) for name, value in row.dimensions.items() if name not in shared]
    for side, own in zip("AB", row.own, strict=True):
        facts += [f"{side}: {name} {plain(value)}" for name, value in own.items()]
    return " ".join([row.metric, *filter(None, facts)])


def _fact(name: str, value: Scalar) -> str:
    """A dimension as it stands in a row: a text explains itself, a number needs its name."""
    if value is None:
        return ""
    return value if isinstance(value, str) else f"{name} {plain(value)}"

"""Put a directory of records in order; no run does this by itself.

coppice archive [--dry-run] [--results DIR]

- A record of which every series was measured again later, on its machine and by a record that is
  as valid and as full, goes to DIR/archive/MACHINE/. Pages, exports and comparisons read it as
  before, and its page keeps its address. One that is superseded no more comes back.
- The file of pytest-benchmark goes with its record, under the record's name. A file of earlier
  versions, with a digest for a name, is divided among its records.
- DIR/index.json gets a line for each record: what it is, its digest, and what superseded it.
"""

from __future__ import annotations

import argparse
import sys

from harness import option_types
from harness.errors import UsageError
from harness.measure import archive
from harness.measure.record_digests import INDEX

HELP = "move superseded records to the archive, and bring the index up to date"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="only list what would be done")
    option_types.add_results(parser)


def main(options: argparse.Namespace) -> int:
    """Always 0: files that are left alone are listed on standard error."""
    results = options.results
    if not results.is_dir():
        raise UsageError(f"{results} is not a directory of records", hint="--results DIR names it")
    plan = archive.plan(results)
    left = plan.problems if options.dry_run else archive.carry_out(plan)
    would = "would be " if options.dry_run else ""
    for file in plan.named:
        print(f"{would}divided: {file}")
    for move in plan.moves:
        print(f"{would}moved: {move.source} to {move.target}")
    if not plan.indexed and options.dry_run:
        print(f"would be written: {results / INDEX}")
    gone = sum(1 for one in plan.records if one.superseded)
    print(f"{results / INDEX}: {len(plan.records)} records, {gone} superseded")
    for problem in left:
        print(f"coppice: {problem}", file=sys.stderr)
    return 0

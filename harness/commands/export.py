"""Give records to the tools of others: pyperf's JSON, or RO-Crate metadata for a results directory.

coppice export --pyperf RECORD [--metric NAME] [--out FILE]
coppice export --ro-crate [--results DIR]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from harness import paths
from harness.errors import MissingTool, UsageError
from harness.measure import pyperf
from harness.measure.record import load

HELP = "give records to other tools: pyperf, RO-Crate"
CRATE = "ro-crate-metadata.json"


def arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--pyperf", type=Path, metavar="RECORD", help="a record as pyperf's JSON")
    what.add_argument(
        "--ro-crate", action="store_true", help=f"write {CRATE} into the directory of results"
    )
    parser.add_argument("--metric", action="append", default=[], help="only this metric")
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: standard output")
    parser.add_argument("--results", type=Path, default=paths.default_results(), metavar="DIR")


def main(options: argparse.Namespace) -> int:
    if options.pyperf:
        data = pyperf.suite(load(options.pyperf), options.metric)
        text = json.dumps(data, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
        if options.out:
            options.out.write_text(text)
        else:
            sys.stdout.write(text)
        return 0
    if not options.results.is_dir():
        raise UsageError(f"{options.results} is no directory of records")
    try:
        from harness.site.builder import exports
        from harness.site.data import corpus
    except ModuleNotFoundError as error:
        raise MissingTool(
            f"RO-Crate metadata needs the Python package {error.name}",
            hint="pip install -e '.[site]' in the checkout",
        ) from error
    own = options.results / "published"
    found = corpus.load(options.results, own if own.is_dir() else paths.PUBLISHED)
    target = options.results / CRATE
    crate = exports.crate(found, lambda entry: entry.place.shown)
    target.write_bytes(exports.as_json(crate))
    print(f"{target}: {len(found.entries)} records")
    return 0

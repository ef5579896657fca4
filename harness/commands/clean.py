"""Remove what dead runs have left on this machine; running ones are not touched."""

from __future__ import annotations

import argparse

from harness.host.leftovers import find, reclaim
from harness.host.run import runtime_folder

HELP = "remove what dead runs have left"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="only say what would be removed")


def main(options: argparse.Namespace) -> int:
    runtime = runtime_folder()
    found = find(runtime) if options.dry_run else reclaim(runtime)
    done = "would remove" if options.dry_run else "removed"
    for one in found:
        print(f"{done} {one.what} {one.name} of run {one.run_id}")
    if not found:
        print("nothing of ours is left")
    return 0

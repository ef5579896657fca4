"""Draw the README's chart anew from the newest records of the machine measured last."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness import paths
from harness.errors import UsageError

HELP = "draw the README's chart from the records"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", type=Path, default=paths.default_results())
    parser.add_argument("--out", type=Path, default=Path("cold-start.svg"))


def main(options: argparse.Namespace) -> int:
    # What draws is loaded only when it draws: a rig host needs none of it.
    from harness.site.charts import readme
    from harness.site.data import corpus

    found = corpus.load(options.results, paths.PUBLISHED)
    try:
        options.out.write_bytes(readme.draw(found))
    except ValueError as error:
        raise UsageError(str(error), hint="coppice run --all") from error
    print(options.out)
    return 0

"""Build the static claims site from the records; with --serve, show it on loopback."""

from __future__ import annotations

import argparse
import gc
import sys
from datetime import date
from pathlib import Path

from harness import extras, paths
from harness.errors import UsageError

HELP = "build the static site from the records"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--results",
        type=Path,
        default=paths.default_results(),
        metavar="DIR",
        help="the directory of records (default: results)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("_site"),
        metavar="DIR",
        help="where to build (default: _site)",
    )
    parser.add_argument(
        "--address",
        metavar="URL",
        help="where the site will be found, for feeds and the sitemap (default: where --serve is)",
    )
    parser.add_argument(
        "--today",
        metavar="DATE",
        help="the day that ages count from, YYYY-MM-DD (default: the newest record's)",
    )
    parser.add_argument("--again", action="store_true", help="make every page anew")
    parser.add_argument("--serve", action="store_true", help="then show it on 127.0.0.1")
    parser.add_argument(
        "--port",
        type=int,
        default=8000,
        metavar="N",
        help="port for --serve, 0 for any free one (default: 8000)",
    )


def main(options: argparse.Namespace) -> int:
    """0, also when some records could not be read: those are listed on the site and here."""
    try:
        # Here, not above: a rig host has no jinja2, and its other commands must work.
        from harness.site.builder import build, serve
    except ModuleNotFoundError as error:
        raise extras.missing("the site", error) from error
    if options.today is not None:
        try:
            date.fromisoformat(options.today)
        except ValueError as error:
            raise UsageError(f"--today {options.today} is no date: {error}") from error
    address = f"{(options.address or build.ADDRESS).rstrip('/')}/"
    how = build.Options(options.today, address, again=options.again)
    # Little of what is made here goes before the end: looking for it takes a tenth of the time.
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)
    built = build.build(options.results, options.out, options=how)
    print(
        f"{built.pages} pages of {built.records} records in {built.out}/index.html"
        f" ({built.made} files made)"
    )
    for problem in built.problems:
        print(f"left out: {problem.error}", file=sys.stderr)
    if options.serve:
        with serve.server(built.out, options.port) as server:
            print(f"http://127.0.0.1:{server.server_port}/ (Ctrl-C ends)", flush=True)
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                print()
    return 0

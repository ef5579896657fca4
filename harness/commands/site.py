"""Build the static claims site from the records; with --serve, show it on loopback."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from harness.errors import MissingTool

HELP = "build the static site from the records"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--results",
        type=Path,
        default=Path("results"),
        metavar="DIR",
        help="the folder of records (default: results)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("_site"),
        metavar="DIR",
        help="where to build (default: _site)",
    )
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
        from harness.site import build, serve
    except ModuleNotFoundError as error:
        raise MissingTool(
            f"the site needs the Python package {error.name}",
            hint="pip install -e '.[site]' in the checkout",
        ) from error
    built = build.build(options.results, options.out)
    print(f"{built.pages} pages of {built.records} records in {built.out}/index.html")
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

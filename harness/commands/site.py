"""Build the static claims site from the records; with --serve, serve it on 127.0.0.1."""

from __future__ import annotations

import argparse
import gc
import signal
import sys
from pathlib import Path

from harness import extras, option_types
from harness.errors import Interrupted

HELP = "build the static site from the records"


def arguments(parser: argparse.ArgumentParser) -> None:
    option_types.add_results(parser)
    parser.add_argument(
        "--out",
        type=option_types.path,
        default=Path("_site"),
        metavar="DIR",
        help="where to build (default: _site)",
    )
    parser.add_argument(
        "--address",
        type=option_types.directory_url,
        metavar="URL",
        help="the site's public URL, for feeds and the sitemap (default: that of --serve)",
    )
    parser.add_argument(
        "--today",
        type=option_types.day,
        metavar="DATE",
        help="the date that ages are relative to, YYYY-MM-DD (default: the newest record's)",
    )
    parser.add_argument(
        "--repository",
        type=option_types.url,
        metavar="URL",
        help="the address of the source code, for a link to it (default: no link)",
    )
    parser.add_argument("--again", action="store_true", help="rebuild every page")
    parser.add_argument("--serve", action="store_true", help="then serve it on 127.0.0.1")
    parser.add_argument(
        "--port",
        type=option_types.port,
        default=8000,
        metavar="N",
        help="port for --serve, 0 for any free one (default: 8000)",
    )


def main(options: argparse.Namespace) -> int:
    """Always 0: records that could not be read are listed on the site and on standard error."""
    try:
        # Here, not above: a rig host has no jinja2, and its other commands must work.
        from harness.site.builder import build, serve
    except ModuleNotFoundError as error:
        raise extras.missing("the site", error) from error
    how = build.Options(
        options.today,
        options.address or build.ADDRESS,
        again=options.again,
        repository=options.repository or "",
        preview=True,
    )
    # Few objects die before the end of a build, so frequent collection would cost a tenth of it.
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)
    built = build.build(options.results, options.out, options=how)
    print(
        f"{built.pages} pages of {built.records} records in {built.out}/index.html"
        f" ({built.made} files made)"
    )
    for problem in built.problems:
        print(f"skipped: {problem.error}", file=sys.stderr)
    if options.serve:
        with serve.server(built.out, options.port) as server:
            print(f"http://127.0.0.1:{server.server_port}/ (stop with Ctrl-C)", flush=True)
            try:
                server.serve_forever()
            except KeyboardInterrupt as end:
                if isinstance(end, Interrupted) and end.args[0] != signal.SIGINT:
                    raise
                print()
    return 0

"""Draw a chart of the site as a PDF, SVG or PNG file for a paper.

coppice chart --list [PREFIX]
coppice chart NAME --out FILE.pdf [--width 3.5in] [--results DIR] [--machine MACHINE]

The caption goes to standard output and into the file's metadata: how to read the chart, the
machine, and for every series its n, day and run. Equal records give equal files.
"""

from __future__ import annotations

import argparse
import re

from harness import extras, option_types, paths
from harness.errors import RecordError, UsageError
from harness.host import output_file

HELP = "draw a chart of the site for a paper: PDF, SVG, PNG"
_INCHES = {"in": 1.0, "cm": 1 / 2.54, "mm": 1 / 25.4, "pt": 1 / 72.27, "": 1.0}
_NARROWEST, _WIDEST = 2.0, 20.0


def inches(text: str) -> float:
    """A width such as 3.5in, 89mm or 252pt (TeX points)."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(in|cm|mm|pt|)", text.strip())
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is not a width such as 3.5in, 89mm or 252pt")
    width = float(found[1]) * _INCHES[found[2]]
    if not _NARROWEST <= width <= _WIDEST:
        raise argparse.ArgumentTypeError(
            f"{text} is not between {_NARROWEST:g}in and {_WIDEST:g}in"
        )
    return width


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="the chart's name; see --list")
    parser.add_argument(
        "--list",
        nargs="?",
        const="",
        metavar="PREFIX",
        help="list the charts that the records allow; all whose names begin with PREFIX",
    )
    parser.add_argument(
        "--out",
        type=option_types.path,
        metavar="FILE",
        help="a .pdf, .svg or .png file",
    )
    parser.add_argument("--width", type=inches, default=3.5, help="default: 3.5in, a single column")
    option_types.add_results(parser)
    parser.add_argument(
        "--machine", help="a machine's id or its beginning (default: the one measured last)"
    )


def main(options: argparse.Namespace) -> int:
    if options.list is None and (not options.name or not options.out):
        raise UsageError(
            "a chart needs a name and a file",
            hint="coppice chart NAME --out FILE.pdf; names: coppice chart --list",
        )
    if not options.results.is_dir():
        raise UsageError(
            f"{options.results} is not a directory of records", hint="--results DIR names it"
        )
    try:
        # Not at the top: a rig host has no matplotlib, and its other commands must work.
        from harness.site.data import corpus
        from harness.site.plots import catalogue, drawing, plot, style
    except ModuleNotFoundError as error:
        raise extras.missing("a chart", error) from error
    own = options.results / "published"
    found = corpus.load(options.results, own if own.is_dir() else paths.PUBLISHED)
    if options.machine:
        found = catalogue.of_machine(found, options.machine)
    if options.list is not None:
        for name, title in catalogue.listed(found, options.list):
            print(f"{name:34} {title}")
        return 0
    kind = options.out.suffix.removeprefix(".")
    if kind not in style.FORMATS:
        raise UsageError(
            f"the format of {options.out} is unknown",
            hint=f"end its name with {', '.join(f'.{kind}' for kind in style.FORMATS)}",
        )
    if found.problems and not found.entries:
        raise RecordError(
            f"nothing to draw from {options.results}: no record can be read; "
            f"{found.problems[0].error}"
        )
    chosen = catalogue.named(found, options.name)
    lines = plot.caption(chosen, drawing.key(chosen.picture))
    figure = drawing.draw(chosen.picture, options.width)
    content = style.content(figure, kind, plot.metadata(chosen, lines))
    output_file.replace(options.out, lambda path: path.write_bytes(content))
    print("\n".join(lines))
    return 0

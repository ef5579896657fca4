"""Values of options as argparse takes them; what makes no sense is refused with the usage."""

from __future__ import annotations

import math
import os
import re
import sys
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable
from datetime import date
from pathlib import Path
from urllib.parse import urlsplit

from harness import paths

MOST = 10**15
PORTS = 65535
DECIMAL = re.compile(r"-?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def add_results(parser: ArgumentParser) -> None:
    """Add `--results`, the directory of records that a command reads."""
    parser.add_argument(
        "--results",
        type=path,
        default=paths.default_results(),
        metavar="DIR",
        help="the directory of records (default: results)",
    )


def path(text: str) -> Path:
    """A path. An empty one, often a variable that is not set, would be the current directory."""
    if not text:
        raise ArgumentTypeError("the path is empty")
    if "\0" in text:
        raise ArgumentTypeError("a path has no NUL bytes")
    try:
        os.fsencode(text)
    except UnicodeEncodeError:  # decoded by the C library, which knows more than Python's codec
        raise ArgumentTypeError(
            f"{text!r} is not in this locale's encoding, {sys.getfilesystemencoding()}; "
            "with LC_ALL=C.UTF-8 any path can be given"
        ) from None
    return Path(text)


def name(text: str) -> str:
    """A text that is stored. Bytes that the locale's encoding lacks cannot be."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ArgumentTypeError(
            f"{text!r} is not in this locale's encoding, {sys.getfilesystemencoding()}"
        ) from None
    return text


def url(text: str) -> str:
    """An http or https URL, for a link: any other scheme could run a script on the page."""
    wrong = f"{text!r} is not a URL that begins with http:// or https:// and a host"
    if not text.isascii() or any(not one.isprintable() or one in ' <>"\\^`{|}' for one in text):
        raise ArgumentTypeError(wrong)
    try:
        parts = urlsplit(text)
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # of brackets or a port
        known = False
    if not known:
        raise ArgumentTypeError(wrong)
    return text


def directory_url(text: str) -> str:
    """A URL below which others lie: without query and fragment, with a slash at its end."""
    if "?" in url(text) or "#" in text:
        raise ArgumentTypeError(f"{text!r} has a query or a fragment, so no page lies below it")
    return f"{text.rstrip('/')}/"


def day(text: str) -> str:
    """A date as YYYY-MM-DD."""
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError as error:
        raise ArgumentTypeError(f"{text!r} is not a date: {error}") from None


def number(least: int, most: int = MOST) -> Callable[[str], int]:
    """A whole number from `least` to `most`."""

    def parse(text: str) -> int:
        if text.isascii() and text.isdecimal() and least <= int(text[:18]) <= most:
            return int(text[:18])
        bounds = f"from {least} to {most}" if most < MOST else f"from {least} on"
        raise ArgumentTypeError(f"{text!r} is not a number {bounds}")

    return parse


def port(text: str) -> int:
    """A TCP port; 0 for any that is free."""
    return number(0, PORTS)(text)


def decimal(text: str) -> float:
    """A number in plain digits, or NaN: Python also reads 1_0 and the digits of all scripts."""
    return float(text) if DECIMAL.fullmatch(text) else math.nan


def rate(text: str) -> float:
    """A positive number."""
    found = decimal(text)
    if not 0 < found < math.inf:
        raise ArgumentTypeError(f"{text!r} is not a positive number")
    return found

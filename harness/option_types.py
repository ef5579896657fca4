"""Values of options as argparse takes them; what makes no sense is refused with the usage."""

from __future__ import annotations

import math
import os
import sys
from argparse import ArgumentTypeError
from collections.abc import Callable
from pathlib import Path

MOST = 10**15
PORTS = 65535


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


def rate(text: str) -> float:
    """A positive number."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not 0 < found < math.inf:
        raise ArgumentTypeError(f"{text!r} is not a positive number")
    return found

"""Runs that are repeated over hours or days, so that their spread between runs can be shown.

Each is a run of its own, in a process and with records of its own.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from harness import failures
from harness.errors import Unsupported, UsageError

MOST = 1000
MOST_S = 7 * 86_400.0
"""The longest time between two runs: a week."""
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--repeat",
        type=times,
        default=1,
        metavar="N",
        help=f"make N runs (at most {MOST}), each with records of its own: from three on, pages "
        "show how much a figure differs from run to run",
    )
    parser.add_argument(
        "--spread",
        type=duration,
        metavar="TIME",
        help="time from the beginning of one run of --repeat to that of the next, such as 20m, 1h "
        "or 1d, at most 7d (default: none)",
    )


def times(text: str) -> int:
    """The value of --repeat. Raises ArgumentTypeError."""
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text[:9]) <= MOST:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {MOST}")
    return int(text)


def duration(text: str) -> float:
    """Seconds of a duration such as 90s, 20m, 1.5h or 1d. Raises ArgumentTypeError."""
    parts = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)([smhd])", text, re.ASCII)
    seconds = float(parts[1]) * _UNITS[parts[2]] if parts else -1.0
    if not 0 <= seconds <= MOST_S:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a time of at most 7d, such as 90s, 20m, 1.5h or 1d"
        )
    return seconds


def check(options: argparse.Namespace) -> None:
    """Raise UsageError for options that exclude each other."""
    if options.interleave and options.repeat > 1:
        raise UsageError(
            "--repeat and --interleave exclude each other: interleaved runs are repeated already",
            hint="coppice run RIG --interleave A B --rounds N",
        )
    if options.spread is not None and options.repeat == 1:
        raise UsageError(
            "--spread is the time between repeated runs, and there is only one",
            hint="coppice run RIG --repeat 5 --spread 1h",
        )


def repeated(options: argparse.Namespace, once: Callable[[], int]) -> int:
    """Call `once` --repeat times, and return the first exit code that is not 0.

    A failed run does not keep the later ones from being made: its error is shown. Raised, or
    returned at once, is what would fail each time: a wrong request, a host on which nothing that
    was requested can run, and a defect.
    """
    many = options.repeat
    if many == 1:
        return once()
    worst, failed = 0, list[str]()
    for number in range(1, many + 1):
        begun = time.monotonic()
        _say(f"run {number} of {many}")
        code = _tried(once, first=number == 1)
        if code == UsageError.exit_code:
            return code
        if code:
            failed.append(str(number))
            worst = worst or code
        if number < many and options.spread:
            _wait(options.spread - (time.monotonic() - begun), f"run {number + 1} of {many}")
    which = f"failed: {', '.join(failed)}" if failed else "none failed"
    _say(f"{many} runs were made; {which}")
    return worst


def _tried(once: Callable[[], int], *, first: bool) -> int:
    try:
        return once()
    except Exception as error:
        known = failures.typed(error)
        if known is None or isinstance(known, UsageError):
            raise
        if first and isinstance(known, Unsupported):
            raise
        _say(str(known))
        return known.exit_code


def _wait(seconds: float, what: str) -> None:
    """Sleep; the signals that end a command end this too."""
    if seconds <= 0:
        return
    at = datetime.now(UTC) + timedelta(seconds=seconds)
    _say(f"{what} begins at {at:%Y-%m-%d %H:%M:%S} UTC, in {_rough(seconds)} (Ctrl-C to stop)")
    time.sleep(seconds)


def _rough(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [(hours, "h"), (minutes, "min"), (rest, "s")]
    return " ".join(f"{many} {unit}" for many, unit in parts if many) or "0 s"


def _say(text: str) -> None:
    print(f"coppice: {text}", file=sys.stderr, flush=True)

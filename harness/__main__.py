"""The program `coppice`, which is also `python -m harness`.

Loading harness/cli.py takes a while. A signal that comes meanwhile ends the process at once, with
the code and message that it has later: nothing has begun that would have to be taken down.
"""

from __future__ import annotations

import os
import signal
import sys
import warnings

from harness.errors import Interrupted

VARIABLES = ("PYTHONWARNINGS", "PYTHONWARNDEFAULTENCODING")
"""Set for other Python programs; they change what this one prints, or end it."""


def _end(number: int, _: object) -> None:
    interrupted = Interrupted(number)
    try:
        os.write(2, f"coppice: {interrupted}\n".encode())
    finally:
        os._exit(interrupted.exit_code)


def _own_warnings() -> None:
    """Python's usual warnings, where variables ask for others: with PYTHONWARNINGS=error, a library
    that uses an outdated function would end this program."""
    if not set(VARIABLES) & set(os.environ):
        return
    for name in VARIABLES:
        os.environ.pop(name, None)
    warnings.resetwarnings()
    sys.warnoptions.clear()
    for unseen in (
        DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning,
        EncodingWarning,
    ):  # fmt: skip
        warnings.simplefilter("ignore", unseen)


def main() -> int:
    """Run `coppice` and return its exit code."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)
    _own_warnings()
    from harness import cli  # only now: this is what takes a while

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())

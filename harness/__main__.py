"""The program `coppice`, which is also `python -m harness`.

Loading harness/cli.py takes a while. A signal that comes meanwhile ends the process at once, with
the code and message that it has later: nothing has begun that would have to be taken down.
"""

from __future__ import annotations

import os
import signal
import sys

from harness.errors import Interrupted


def _end(number: int, _: object) -> None:
    interrupted = Interrupted(number)
    try:
        os.write(2, f"coppice: {interrupted}\n".encode())
    finally:
        os._exit(interrupted.exit_code)


def main() -> int:
    """Run `coppice` and return its exit code."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)
    from harness import cli  # only now: this is what takes a while

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())

"""The program in which `coppice run` measures: pytest, and the same end by a signal at any moment.

Until the plugin harness/rig/progress.py raises signals in an orderly way, there is nothing to take
down, and a traceback of pytest's imports helps no user. This file is run by its path: pytest
would not rewrite the assertions of a package that is loaded before it.
"""

from __future__ import annotations

import os
import signal
import sys


def _end(number: int, _: object) -> None:
    os._exit(128 + number)  # `coppice run` says what has happened


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    import pytest

    try:
        code = pytest.main()
        sys.stdout.flush()
    except OSError as error:  # of the output: any other would be pytest's internal error
        from harness import terminal
        from harness.failures import typed

        terminal.discard_output()
        known = typed(error)
        code = known.exit_code if known else 1
    sys.exit(code)

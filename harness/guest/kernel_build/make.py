"""Runs `make` in a kernel's source, and shows how far it is.

`make` and what it starts are processes of a run: they end with it, and `coppice clean` ends those
that a killed build has left. Most end by themselves, because nothing reads their output any more.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from harness.errors import CommandFailed
from harness.host.process import need
from harness.host.run import Run

BUILT = re.compile(r"  (HOST)?[A-Z]{2,}\s+\S+$")
"""A line that names a file that is being made, such as `  CC      kernel/fork.o`."""
EVERY_S = 30.0
"""Between two lines of progress where there is no terminal."""
REPRODUCIBLE = {
    "KBUILD_BUILD_TIMESTAMP": "1970-01-01",
    "KBUILD_BUILD_USER": "coppice",
    "KBUILD_BUILD_HOST": "coppice",
    "KBUILD_BUILD_VERSION": "1",
}
"""Else two builds of the same source would differ."""


class Progress:
    """Shows the count of files made so far: in one line on a terminal, else now and then."""

    def __init__(self) -> None:
        self._began = self._shown = time.monotonic()
        self._files = 0

    def take(self, line: str) -> None:
        """Note a line of make's output."""
        if not BUILT.match(line):
            return
        self._files += 1
        now = time.monotonic()
        terminal = sys.stderr.isatty()
        if now - self._shown < (0.5 if terminal else EVERY_S):
            return
        self._shown = now
        text = f"{self._files} files in {now - self._began:.0f} s: {line.split()[-1]}"
        if terminal:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r{text[:width]:{width}}", end="", file=sys.stderr, flush=True)
        else:
            print(text, file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._files and sys.stderr.isatty():
            print(file=sys.stderr)


def make(run: Run, tree: Path, *arguments: str, take: Callable[[str], object] = len) -> None:
    """Run make in a source with all processors. Raises MissingTool, and CommandFailed with the end
    of its output. `take` gets each line of it."""
    jobs = f"-j{len(os.sched_getaffinity(0))}"
    command = [need("make"), jobs, *arguments]
    last: deque[str] = deque(maxlen=6)
    with subprocess.Popen(
        command, cwd=tree, env={**run.environment, "LC_ALL": "C", **REPRODUCIBLE},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, encoding="utf-8", errors="replace", start_new_session=True,
    ) as process:  # fmt: skip
        try:
            assert process.stdout
            for line in process.stdout:
                take(line.rstrip())
                last.append(line.strip())
            code = process.wait()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    if code:
        told = " | ".join(filter(None, last))
        raise CommandFailed(f"make {' '.join(arguments)} failed: {told}", code, told)

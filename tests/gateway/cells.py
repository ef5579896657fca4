"""The code interpreter's program on its own, in a copy of the sandboxes' root file system."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import MissingPrivilege
from harness.gateway.envd.interpreter import ARGV, HOME
from harness.gateway.fleets import disk
from harness.gateway.fleets.templates import REHEARSED
from harness.host.process import need
from harness.paths import cache_directory

Line = dict[str, Any]
# The mounts are in a namespace of their own: they disappear with the program. What it writes goes
# to an overlay in memory.
_ENTER = """
root=$1 at=$2 packages=$3; shift 3
mount -t tmpfs cells "$at" && mkdir "$at/upper" "$at/work" "$at/tree" &&
mount -t overlay -o "lowerdir=$root,upperdir=$at/upper,workdir=$at/work" cells "$at/tree" &&
mount -t proc cells "$at/tree/proc" && mount --rbind /dev "$at/tree/dev" &&
mount -t tmpfs cells "$at/tree/tmp" &&
{ test -z "$packages" || mount --bind "$packages" "$at/tree/mnt"; } &&
exec chroot --userspec=1000:1000 "$at/tree" "$@"
"""


@dataclass
class Interpreter:
    """A running interpreter, which is ready for cells."""

    process: subprocess.Popen[bytes]

    def read(self) -> Line:
        assert self.process.stdout
        line: Line = json.loads(self.process.stdout.readline())
        return line

    def start(
        self, code: str, envs: Mapping[str, str] | None = None, *, rehearsal: bool = False
    ) -> list[Line]:
        """Begin a cell; its first line."""
        self.send(code, envs, rehearsal=rehearsal)
        return [self.read()]

    def send(
        self, code: str, envs: Mapping[str, str] | None = None, *, rehearsal: bool = False
    ) -> None:
        """Send a cell; returns as soon as it has begun."""
        self.write(code, envs, rehearsal=rehearsal)
        self.begun()

    def begun(self) -> None:
        """Wait for the begin of the next cell, behind what was written without a cell."""
        while (line := self.read())["type"] != "begin":
            assert line["type"] in ("stdout", "stderr"), line

    def write(
        self, code: str, envs: Mapping[str, str] | None = None, *, rehearsal: bool = False
    ) -> None:
        """Send a cell, which may have to wait for another one."""
        assert self.process.stdin
        request = {"code": code, "envs": envs or {}, "rehearsal": rehearsal}
        self.process.stdin.write(json.dumps(request).encode() + b"\n")
        self.process.stdin.flush()

    def until(self, text: str, lines: list[Line]) -> None:
        """Read lines until one that the cell has printed."""
        while not any(line.get("text") == text for line in lines):
            lines.append(self.read())

    def rest(self, lines: list[Line]) -> list[Line]:
        """The lines of a cell that was begun, to its end."""
        while not lines or lines[-1]["type"] != "end_of_execution":
            lines.append(self.read())
        return lines

    def run(self, code: str, **envs: str) -> list[Line]:
        """The lines of a cell, from the count to the end."""
        return self.rest(self.start(code, envs))

    def signal(self, number: signal.Signals) -> None:
        """Signal it as envd does: its whole group."""
        os.killpg(self.process.pid, number)


@contextlib.contextmanager
def interpreter(at: Path, *, packages: Path | None = None) -> Iterator[Interpreter]:
    """An interpreter in the root file system of the sandboxes, as their user, and rehearsed as
    theirs are; `at` is an empty directory. `packages` is a directory of Python packages that it can
    import besides."""
    if os.geteuid() != 0:
        raise MissingPrivilege("entering the sandboxes' root file system needs root")
    need("debootstrap")
    root = disk.root_directory(cache_directory()).path
    inside = ("/usr/bin/env", "-i", f"HOME={HOME}", "PATH=/usr/bin:/bin", "SHELL=/bin/bash",
              f"--chdir={HOME}", *(["PYTHONPATH=/mnt"] if packages else []), *ARGV)  # fmt: skip
    argv = (shutil.which("unshare") or "unshare", "--mount", "--uts", "--propagation", "private",
            "sh", "-c", _ENTER, "sh", str(root), str(at), str(packages or ""), *inside)  # fmt: skip
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, process_group=0
    ) as process:
        try:
            started = Interpreter(process)
            assert started.read()["type"] == "ready"
            for code in REHEARSED:
                started.rest(started.start(code, rehearsal=True))
            yield started
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def texts(lines: Sequence[Line], kind: str = "stdout") -> str:
    """What a cell wrote."""
    return "".join(line["text"] for line in lines if line["type"] == kind)


def result(lines: Sequence[Line]) -> Line:
    """The value of the cell's last expression."""
    (main,) = [line for line in lines if line.get("is_main_result")]
    return main


def error(lines: Sequence[Line]) -> Line | None:
    """The error that the cell ended with."""
    errors = [line for line in lines if line["type"] == "error"]
    assert len(errors) < 2, errors
    return errors[0] if errors else None

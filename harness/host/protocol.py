"""What a driver asks of the host that it works on: this machine, or one at the end of a connection.

A driver that speaks through this knows neither where it runs nor how words get there. Paths are
the host's own, as text.
"""

from __future__ import annotations

import shlex
import signal
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from harness.errors import CommandFailed, DiskFull, MissingTool

NOT_FOUND = 127
"""What a shell ends with when there is no such program."""
_NO_SPACE = ("No space left on device", "filesystem full", "out of space", "Disc quota exceeded")


@dataclass(frozen=True)
class Done:
    """A program that ended. `started` and `ended` are seconds of that host's monotonic clock;
    `code` is negative, or above 128, when a signal ended it."""

    argv: Sequence[str]
    code: int
    stdout: bytes
    stderr: bytes
    started: float
    ended: float

    @property
    def text(self) -> str:
        """What it printed, without the last line's end."""
        return self.stdout.decode(errors="replace").rstrip("\n")

    @property
    def error_text(self) -> str:
        """The last lines that it wrote on stderr, for an error message."""
        lines = self.stderr.decode(errors="replace").strip().splitlines()
        return " | ".join(lines[-3:])


class HostProcess(Protocol):
    """A process that outlives the call that started it, and the connection too.

    `channel` is a connected stream of bytes to its stdin and from its stdout.
    """

    pid: int
    channel: socket.socket

    def poll(self) -> int | None:
        """What it ended with; None while it lives."""

    def error_text(self) -> str:
        """The end of what it wrote on stderr."""

    def end(self) -> None:
        """Kill it, wait for it, close the line; safe to call twice."""


class Host(Protocol):
    """One machine, for as long as a run lasts. Several threads may use it at once.

    `directory` is there for this run and goes with it. Everything raises HostLost when the
    connection ends in between.
    """

    name: str
    directory: str
    clock: str
    """Where the times of `Done` come from, with their resolution."""

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = 60.0) -> Done:
        """Run a program to its end, whatever it ends with. GuestTimeout when that takes longer."""

    def put(self, content: bytes | Path, path: str, mode: int = 0o644) -> None:
        """Write a file there, in one step; missing directories are made. DiskFull leaves none."""

    def get(self, path: str) -> bytes:
        """The content of a file there. CommandFailed when it cannot be read."""

    def start(
        self, argv: Sequence[str], name: str, env: Mapping[str, str] | None = None
    ) -> HostProcess:
        """Start a process that outlives the call. `name` names its files in the run's directory."""

    def signal(self, process: HostProcess, number: int) -> None:
        """Send a signal, by this system's number, to a process of `start`; nothing happens when it
        has ended."""


def signal_name(number: int) -> str:
    """A signal's name as kill(1) takes it: numbers differ from one system to the next."""
    return signal.Signals(number).name.removeprefix("SIG")


def must(
    host: Host,
    argv: Sequence[str],
    *,
    stdin: bytes = b"",
    timeout_s: float = 60.0,
    hint: str | None = None,
) -> Done:
    """Run a program that has to succeed.

    Raises MissingTool, DiskFull or CommandFailed, with the command and what it said.
    """
    done = host.run(argv, stdin=stdin, timeout_s=timeout_s)
    if done.code:
        raise failure(host, done, hint)
    return done


def failure(
    host: Host, done: Done, hint: str | None = None
) -> CommandFailed | MissingTool | DiskFull:
    """The error for a program that ended badly."""
    words = shlex.join(done.argv)
    if done.code == NOT_FOUND:
        return MissingTool(
            f"{done.argv[0]} is not installed on {host.name}", hint="coppice doctor says what is"
        )
    said = done.error_text or "no message"
    if any(one.lower() in said.lower() for one in _NO_SPACE):
        return DiskFull(
            f"{words} found no room on {host.name}: {said}",
            hint="free some space there, or name another directory in COPPICE_CACHE",
        )
    return CommandFailed(
        f"{words} on {host.name} ended with {done.code}: {said}", done.code, said, hint=hint
    )

"""The interface to a host on which drivers work: this machine, or one reached over ssh.

Drivers that use it need not know which. Paths are strings, valid on that host.
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
"""A shell's exit code for a program that it does not find."""
_NO_SPACE = ("No space left on device", "filesystem full", "out of space", "Disc quota exceeded")


@dataclass(frozen=True)
class Done:
    """A program that has ended. `started` and `ended` are in seconds of that host's monotonic
    clock; `code` is negative, or above 128, when a signal ended it."""

    argv: Sequence[str]
    code: int
    stdout: bytes
    stderr: bytes
    started: float
    ended: float

    @property
    def text(self) -> str:
        """Its stdout, without trailing newlines."""
        return self.stdout.decode(errors="replace").rstrip("\n")

    @property
    def error_text(self) -> str:
        """The last lines of its stderr, for an error message."""
        lines = self.stderr.decode(errors="replace").strip().splitlines()
        return " | ".join(lines[-3:])


class HostProcess(Protocol):
    """A process that outlives the call that started it, and the connection to its host.

    `channel` is a stream socket, connected to its stdin and stdout.
    """

    pid: int
    channel: socket.socket

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""

    def error_text(self) -> str:
        """The last lines of its stderr."""

    def end(self) -> None:
        """Kill it, wait for it, and close the channel; safe to call twice."""


class Host(Protocol):
    """One machine during a run; safe for use by several threads.

    `directory` is the run's directory there, removed with the run. Every method raises HostLost
    when the connection is lost.
    """

    name: str
    directory: str
    clock: str
    """The source of the times in `Done`, with its resolution."""

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float = 60.0) -> Done:
        """Run a program to its end, with any exit code. GuestTimeout after `timeout_s`."""

    def put(self, content: bytes | Path, path: str, mode: int = 0o644) -> None:
        """Write a file atomically, with missing directories. DiskFull leaves no partial file."""

    def get(self, path: str) -> bytes:
        """The content of a file. CommandFailed when it cannot be read."""

    def start(
        self, argv: Sequence[str], name: str, env: Mapping[str, str] | None = None
    ) -> HostProcess:
        """Start a process that outlives the call. `name` prefixes its files in `directory`."""

    def signal(self, process: HostProcess, number: int) -> None:
        """Send a signal, given by this system's number, to a process of `start`. Does nothing when
        the process has ended."""


def signal_name(number: int) -> str:
    """A signal's name for kill(1), because numbers differ between systems."""
    return signal.Signals(number).name.removeprefix("SIG")


def must(
    host: Host,
    argv: Sequence[str],
    *,
    stdin: bytes = b"",
    timeout_s: float = 60.0,
    hint: str | None = None,
) -> Done:
    """Run a program that must succeed.

    Raises MissingTool, DiskFull or CommandFailed, with the command and the end of its stderr.
    """
    done = host.run(argv, stdin=stdin, timeout_s=timeout_s)
    if done.code:
        raise failure(host, done, hint)
    return done


def failure(
    host: Host, done: Done, hint: str | None = None
) -> CommandFailed | MissingTool | DiskFull:
    """The error for a program that has failed."""
    command = shlex.join(done.argv)
    if done.code == NOT_FOUND:
        return MissingTool(
            f"{done.argv[0]} is not installed on {host.name}",
            hint="see what is missing there: coppice doctor",
        )
    message = done.error_text or "no message"
    if any(phrase.lower() in message.lower() for phrase in _NO_SPACE):
        return DiskFull(
            f"{command} found no space left on {host.name}: {message}",
            hint="free some space there, or name another directory in COPPICE_CACHE",
        )
    return CommandFailed(
        f"{command} on {host.name} exited with {done.code}: {message}",
        done.code,
        message,
        hint=hint,
    )

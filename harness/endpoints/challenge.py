"""Programs whose output shows that they ran: each returns what only a process inside can compute.

A service that repeats the request, or that has no sandbox at all, does not know the product of two
random numbers, nor which of two paths exists. The clock of a first command stops only on a correct
answer.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from harness.endpoints.process_stream import Cell, Ran
from harness.endpoints.static_program import program
from harness.errors import WrongAnswer

BITS = 31
"""Of each factor: the product is exact in every shell and interpreter."""


@dataclass(frozen=True)
class Challenge:
    """A command, and the line that it must print. `missing` is a path that it must not find."""

    argv: Sequence[str]
    line: str
    missing: str = ""

    def check(self, ran: Ran) -> None:
        """Raise WrongAnswer for what a process inside would not have returned."""
        good = ran.code == 0 if not self.missing else ran.code > 0 and self.missing in ran.stderr
        if not good or self.line not in ran.stdout.splitlines():
            text = (ran.stdout + ran.stderr)[:200]
            raise WrongAnswer(
                f"{self.argv[0]} returned {ran.code} and {text!r}, not what was asked for"
            )


def factors() -> tuple[int, int]:
    """Two random numbers of 10 digits at most."""
    return secrets.randbits(BITS) | 1 << (BITS - 1), secrets.randbits(BITS) | 1 << (BITS - 1)


def _shell(*argv: str) -> Challenge:
    a, b = factors()
    return Challenge((*argv, f"echo $(({a}*{b}))"), str(a * b))


def _ls(path: str) -> Challenge:
    absent = f"/{secrets.token_hex(8)}"
    return Challenge((path, "-d", "/usr/bin", absent), "/usr/bin", absent)


def _printing(path: str, option: str, text: str) -> Challenge:
    a, b = factors()
    return Challenge((path, option, text.format(a=a, b=b)), str(a * b))


PROGRAMS: Mapping[str, Callable[[str], Challenge]] = {
    "bash": lambda path: _shell(path, "-l", "-c"),
    "sh": lambda path: _shell(path, "-c"),
    "ls": _ls,
    "python3": lambda path: _printing(path, "-c", "print({a}*{b})"),
    "node": lambda path: _printing(path, "-e", "console.log(String({a}n*{b}n))"),
}
"""What draws each program's challenge, given its path."""
PATHS: Mapping[str, str] = {
    "bash": "/bin/bash",
    "sh": "/bin/sh",
    "ls": "/bin/ls",
    "python3": "/usr/bin/python3",
    "node": "/usr/bin/node",
}
COMMAND = "bash"
"""The program of `first-command`, which is how the SDK runs every command: bash -l -c."""


def challenge(name: str, path: str | None = None) -> Challenge:
    """A new challenge for a program, at its usual path unless another is given."""
    return PROGRAMS[name](path or PATHS[name])


def cell() -> tuple[str, str]:
    """A cell, and the text of its result."""
    a, b = factors()
    return f"{a}*{b}", str(a * b)


def check_cell(expected: str, found: Cell) -> None:
    """Raise WrongAnswer for what an interpreter would not have answered."""
    if found.error or found.text.strip() != expected:
        raise WrongAnswer(f"the cell returned {(found.error or found.text)[:200]!r}")


@dataclass(frozen=True)
class Upload:
    """A fresh program, to be written at `path`, and the command that makes it executable and runs
    it: the API has no modes of files."""

    path: str
    content: bytes
    challenge: Challenge


def upload(machine: str) -> Upload:
    """A program for a sandbox whose `uname -m` is this one of static_program.CODE."""
    a, b = factors()
    path = f"/tmp/coppice-{secrets.token_hex(8)}"
    argv = ("/bin/sh", "-c", f"chmod +x {path} && exec {path}")
    return Upload(path, program(machine, a, b), Challenge(argv, str(a * b)))

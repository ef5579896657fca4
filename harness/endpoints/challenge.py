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


def _ls() -> Challenge:
    absent = f"/{secrets.token_hex(8)}"
    return Challenge(("/bin/ls", "-d", "/usr/bin", absent), "/usr/bin", absent)


def _printing(program: str, option: str, text: str) -> Challenge:
    a, b = factors()
    return Challenge((program, option, text.format(a=a, b=b)), str(a * b))


PROGRAMS: Mapping[str, Callable[[], Challenge]] = {
    "bash": lambda: _shell("/bin/bash", "-l", "-c"),
    "sh": lambda: _shell("/bin/sh", "-c"),
    "ls": _ls,
    "python3": lambda: _printing("python3", "-c", "print({a}*{b})"),
    "node": lambda: _printing("node", "-e", "console.log(String({a}n*{b}n))"),
}
"""What draws each program's challenge. `bash` is how the SDK runs every command."""
COMMAND = "bash"
"""The program of `first-command`."""


def challenge(program: str) -> Challenge:
    """A new challenge for a program."""
    return PROGRAMS[program]()


def cell() -> tuple[str, str]:
    """A cell, and the text of its result."""
    a, b = factors()
    return f"{a}*{b}", str(a * b)


def check_cell(expected: str, found: Cell) -> None:
    """Raise WrongAnswer for what an interpreter would not have answered."""
    if found.error or found.text.strip() != expected:
        raise WrongAnswer(f"the cell returned {(found.error or found.text)[:200]!r}")

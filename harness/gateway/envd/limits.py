"""What Linux accepts, checked before it is sent: paths and environments.

The arguments of a process are left to the guest's kernel, which knows its own limit of their sum.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping

from harness.errors import GuestRefused

PATH_MAX = 4096
"""Bytes of a path with its terminating zero."""
ARGUMENT_MAX = 128 << 10
"""Bytes of an argument or variable with its terminating zero."""
ARGUMENTS_MAX = 2 << 20
"""Bytes of all of them, each with its pointer, under the usual limit of 8 MiB for a stack."""
_POINTER = 8


def refusal(what: str, number: int) -> GuestRefused:
    return GuestRefused(f"{what}: {os.strerror(number)}", number)


def encoded(text: str, what: str) -> bytes:
    """The bytes of a text. Raises GuestRefused where no C program could receive them."""
    try:
        data = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise refusal(f"{what} is not valid Unicode", errno.EILSEQ) from None
    if b"\0" in data:
        raise refusal(f"{what} contains a NUL", errno.EINVAL)
    return data


def path(text: str) -> bytes:
    """The bytes of a path. Raises GuestRefused (ENAMETOOLONG) for one that is too long."""
    data = encoded(text, "the path")
    if len(data) >= PATH_MAX:
        raise refusal(f"{text[:64]}... ({len(data)} bytes)", errno.ENAMETOOLONG)
    return data


def check_environment(variables: Mapping[str, str]) -> None:
    """Raises GuestRefused for variables with which no process could start (E2BIG), and for names
    that another name would stand for (EINVAL)."""
    total = 0
    for name, value in variables.items():
        if not name or "=" in name:
            raise refusal(f"no variable can be called {name[:64]!r}", errno.EINVAL)
        length = len(encoded(f"{name}={value}", f"the variable {name[:64]!r}")) + 1
        if length > ARGUMENT_MAX:
            raise refusal(f"the variable {name[:64]!r} ({length} bytes)", errno.E2BIG)
        total += length + _POINTER
    if total > ARGUMENTS_MAX:
        raise refusal(f"{len(variables)} variables ({total} bytes)", errno.E2BIG)

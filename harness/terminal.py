"""Output in the encoding of the user's terminal: what it lacks is replaced, never an error."""

from __future__ import annotations

import codecs
import contextlib
import os
import sys

NAME = "coppice-plain"
"""The error handler's name in `codecs`."""
PLAIN = {
    "µ": "u", "μ": "u", "–": "-", "—": "-", "−": "-", "×": "x", "±": "+-", "…": "...", "·": "-",
    "→": "->", "≤": "<=", "≥": ">=", "≈": "~", "²": "2", "’": "'", "‘": "'", "“": '"', "”": '"',
    "\N{NO-BREAK SPACE}": " ", "\N{NARROW NO-BREAK SPACE}": " ", "\N{THIN SPACE}": " ",
}  # fmt: skip


def _plain(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking, after = error.object[error.start], error.start + 1
    if "\udc80" <= lacking <= "\udcff":  # a byte of a path, as Python has it
        return bytes((ord(lacking) - 0xDC00,)), after
    return PLAIN.get(lacking) or lacking.encode("ascii", "backslashreplace").decode(), after


def discard_output() -> None:
    """Let standard output go nowhere from now on: it could not be written, and the interpreter
    would try again at its end."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


def degrade() -> None:
    """Let this process's standard output and error replace what their encoding lacks."""
    codecs.register_error(NAME, _plain)
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure:
            with contextlib.suppress(ValueError, OSError):
                reconfigure(errors=NAME)

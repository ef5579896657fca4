"""Numbers in headers and queries: ASCII digits and nothing else. Python's `int` also takes signs,
spaces, underscores and the digits of other scripts."""

from __future__ import annotations

DIGITS = 18
"""Of the longest number: no 64-bit number overflows."""


def whole_number(text: str) -> int | None:
    """The number, or None for any other text."""
    plain = text.isascii() and text.isdecimal() and len(text) <= DIGITS
    return int(text) if plain else None

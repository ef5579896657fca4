"""Text that holds a key. Tracebacks show the representations of arguments, and some all locals."""

from __future__ import annotations


class Secret(str):
    """Its representation is not its value; what is added to it is as secret."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'(left out)'"

    def __add__(self, other: str) -> Secret:
        return Secret(str.__add__(self, other))

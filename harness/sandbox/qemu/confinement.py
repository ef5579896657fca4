"""How far VMMs are confined: wholly unless the user has chosen otherwise, and never less in secret.

What each part does is in docs/confinement.md; jail.py applies them. A host that lacks a part is
refused, or with COPPICE_CONFINEMENT=partial confines by the others; the record says which.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Sequence
from dataclasses import dataclass

from harness.errors import UsageError

VARIABLE = "COPPICE_CONFINEMENT"


class Level(enum.StrEnum):
    """The user's choice: every part, those that this host has, or none."""

    FULL = "full"
    PARTIAL = "partial"
    NONE = "none"


class Part(enum.StrEnum):
    """What confines a VMM, each in its own way."""

    PRIVILEGES = "user and namespaces"
    """A user of its own, no capabilities, namespaces and an empty root."""
    FILTER = "seccomp filter"
    GROUP = "control group"


ALL: Sequence[Part] = tuple(Part)


def chosen() -> Level:
    """The level that COPPICE_CONFINEMENT names. Raises UsageError."""
    named = os.environ.get(VARIABLE) or Level.FULL
    try:
        return Level(named)
    except ValueError:
        raise UsageError(f"{VARIABLE} is {named!r}; it must be {', '.join(Level)}") from None


@dataclass(frozen=True)
class Confinement:
    """What confines the VMMs of a run, for its record: the level and the parts that are applied."""

    level: Level
    parts: Sequence[Part]

    def facts(self) -> dict[str, str]:
        """For a record's images."""
        lacking = [part for part in ALL if part not in self.parts]
        return {
            "level": str(self.level),
            "applied": ", ".join(self.parts) or "nothing",
            "lacking": ", ".join(lacking) or "nothing",
        }

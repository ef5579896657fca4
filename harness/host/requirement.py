"""One thing that a substrate or a rig needs of its host."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Requirement:
    """One line of the doctor: `remedy` is the command that brings what is missing."""

    what: str
    satisfied: bool
    detail: str
    remedy: str | None = None

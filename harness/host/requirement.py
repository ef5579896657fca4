"""What a substrate or a rig requires of its host."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Requirement:
    """One line of `coppice doctor`. `remedy` is the command that provides what is missing."""

    what: str
    satisfied: bool
    detail: str
    remedy: str | None = None

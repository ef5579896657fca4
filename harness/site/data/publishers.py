"""How pages name a publisher: one has the name of this project, so its name is given in full."""

from __future__ import annotations

ORIGINAL = "The original Coppice (FreeBSD)"
"""The project whose claims are tested; its name in results/published/."""


def within(name: str) -> str:
    """The name inside a sentence."""
    return name[:1].lower() + name[1:] if name == ORIGINAL else name


def short(name: str) -> str:
    """The name as a chart has room for it."""
    return "original Coppice" if name == ORIGINAL else name

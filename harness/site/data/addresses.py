"""Addresses of pages: file names made from text, and links from one page to another."""

from __future__ import annotations

import functools
import re


def slug(text: str) -> str:
    """Text in a form that a file name or an anchor can have."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "x"


def published_page(topic: str) -> str:
    """The page of the published figures of a topic: those of starts are on a page of their own."""
    return "published-starts.html" if topic == "cold-start" else "published.html"


@functools.lru_cache(maxsize=65536)
def relative(here: str, target: str) -> str:
    """The address of `target` as seen from the document `here`, both below the root."""
    directories, parts = here.split("/")[:-1], target.split("/")
    same = 0
    while same < len(directories) and same < len(parts) - 1 and directories[same] == parts[same]:
        same += 1
    return "../" * (len(directories) - same) + "/".join(parts[same:])

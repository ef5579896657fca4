"""How a run appears in lists: its title, the series that represents it, the claims it answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.claims.claims import Claim
from harness.site.data import cold_start
from harness.site.data.corpus import Entry
from harness.site.data.record_summary import Brief, Line, fits


def headline(one: Brief) -> Line | None:
    """The series that stands for a run in a list."""
    for line in one.lines:
        if line.metric == cold_start.HEADLINE:
            return line
    # What the harness costs alone stands for a run only where there is nothing else.
    return min(one.lines, key=lambda line: line.dimensions.get("substrate") == cold_start.NOOP,
               default=None)  # fmt: skip


def title(one: Brief) -> str:
    """The rig and what distinguishes this run: dimensions that all of its series share."""
    if not one.lines:
        return one.rig.id
    shared = [
        f"{value}" if isinstance(value, str) else f"{name} {value}"
        for name, value in one.lines[0].dimensions.items()
        if name != "accelerator"
        and value is not None
        and all(line.dimensions.get(name) == value for line in one.lines)
    ]
    return ", ".join([one.rig.id, *shared])


def answerable(one: Brief, claims: Sequence[Claim]) -> Sequence[Claim]:
    """Claims that a series of this run can answer."""
    return [
        claim
        for claim in claims
        if any(
            answer.rig == one.rig.id
            and any(
                line.metric == answer.metric and fits(line.dimensions, answer.where)
                for line in one.lines
            )
            for answer in claim.answers
        )
    ]


def rows_of(entries: Sequence[Entry]) -> Sequence[Mapping[str, object]]:
    """What a list of runs shows of each."""
    return [
        {
            "entry": entry,
            "title": title(entry.brief),
            "series": headline(entry.brief),
        }
        for entry in entries
    ]

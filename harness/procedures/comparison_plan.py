"""What a comparison runs, and how often: its parts, columns, visits and sizes of fleets."""

from __future__ import annotations

import functools
from argparse import ArgumentTypeError
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness import option_types
from harness.errors import UsageError
from harness.procedures.columns import Column, columns
from harness.sandbox.protocol import Tier, load

PARTS = ("cc1", "cc10", "cc50", "memory", "network", "reboot")
"""In this order: the simulated reboot comes last because it empties the page cache."""
ENDS = ("first-reply", "first-exec", "first-touch")
CONCURRENCIES = {"cc1": 1, "cc10": 10, "cc50": 50}
HEAVY_BOOT_S = 10.0
"""CPU seconds of a boot from which on a substrate is left out of the quick profile, and is started
concurrently only if its column was named."""
SLOW_BOOT_S = 0.5
"""CPU seconds of a boot from which on concurrent starts measure only one rung, half as often; in
the quick profile a column this slow is visited once."""
SLOW_RUNG = "first-exec"
HEAVY_VISITS, HEAVY_N = 2, 2

# Visits of each column by the rung that they stop at (at concurrency 1 every rung on the way is
# measured, see harness/procedures/ladder.py). Eight visits of ten sandboxes suffice for a p95.
VISITS: Mapping[str, Mapping[str, Mapping[str, int]]] = {
    "smoke": {"cc1": {"first-touch": 1}},
    "quick": {"cc1": {"first-touch": 2}},
    "full": {
        "cc1": {"first-touch": 16},
        "cc10": {"first-reply": 1, "first-exec": 8, "first-touch": 1},
        "cc50": {"first-reply": 1, "first-exec": 1, "first-touch": 1},
    },
}
SIZES: Mapping[str, Sequence[int]] = {"smoke": (1,), "quick": (2,), "full": (50, 200)}


@functools.cache
def heavy(column: Column) -> bool:
    """Whether a boot takes many seconds of CPU time."""
    return load(column.substrate).boot_cpu_s >= HEAVY_BOOT_S


@functools.cache
def slow(column: Column) -> bool:
    """Whether each start boots a kernel, which takes half a second of CPU time or more."""
    return column.tier is Tier.FULL and load(column.substrate).boot_cpu_s >= SLOW_BOOT_S


@functools.cache
def runs_fleet(column: Column) -> bool:
    """Whether fleets are measured in this tier: the one that creates a sandbox on request and keeps
    it running."""
    compared = load(column.substrate).compared
    return compared is not None and compared.fleet is column.tier


@dataclass(frozen=True)
class Plan:
    """Which parts of the comparison are run, and how often."""

    parts: Sequence[str]
    columns: Sequence[Column]
    visits: Mapping[str, Mapping[str, int]]
    """By part and rung; a part or rung that is left out is missing."""
    sizes: Sequence[int]
    profile: str = "quick"
    named: bool = False
    """Whether the caller chose the columns."""


def planned(options: Mapping[str, str], profile: str = "quick") -> Plan:
    """The plan that the options describe. Raises UsageError when they make no sense."""
    parts = _names(options, "part") or list(PARTS)
    rungs = _names(options, "rungs") or list(ENDS)
    named = _names(options, "columns")
    known = {str(column): column for column in columns()}
    visits = _number("visits", options["visits"]) if "visits" in options else 0
    sizes = [_number("n", text) for text in _names(options, "n")] or SIZES[profile]
    for what, names, allowed in (
        ("part", parts, PARTS),
        ("rung", rungs, ENDS),
        ("column", named, tuple(known)),
    ):
        for name in names:
            if name not in allowed:
                raise UsageError(
                    f"the comparison has no {what} {name!r}", hint=f"known: {', '.join(allowed)}"
                )
    chosen = [known[name] for name in named] or [
        column for column in known.values() if profile == "full" or not heavy(column)
    ]
    often = {
        part: {
            rung: visits or usual
            for rung, usual in by_rung.items()
            if part == "cc1" or rung in rungs
        }
        for part, by_rung in VISITS[profile].items()
    }
    return Plan(parts, chosen, often, sizes, profile, bool(named))


def _number(option: str, text: str) -> int:
    try:
        return option_types.number(1)(text)
    except ArgumentTypeError as error:
        raise UsageError(f"--{option}: {error}") from error


def _names(options: Mapping[str, str], option: str) -> list[str]:
    return options[option].split(",") if option in options else []

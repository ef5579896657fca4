"""The slim kernel's configuration: the options that are wanted, and whether a source kept them.

A fragment is merged onto `allnoconfig`, which drops an option silently when one that it
depends on is off or unknown. So the result is compared with what was wanted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from harness import paths
from harness.errors import ImageError

SLIM = paths.KERNEL_BUILD / "slim.config"
OFF = "n"
OLDER_NAMES: Mapping[str, str] = {
    "CONFIG_MITIGATION_PAGE_TABLE_ISOLATION": "CONFIG_PAGE_TABLE_ISOLATION",
    "CONFIG_MITIGATION_RETPOLINE": "CONFIG_RETPOLINE",
    "CONFIG_MITIGATION_RETHUNK": "CONFIG_RETHUNK",
    "CONFIG_MITIGATION_UNRET_ENTRY": "CONFIG_CPU_UNRET_ENTRY",
    "CONFIG_MITIGATION_IBPB_ENTRY": "CONFIG_CPU_IBPB_ENTRY",
    "CONFIG_MITIGATION_IBRS_ENTRY": "CONFIG_CPU_IBRS_ENTRY",
    "CONFIG_MITIGATION_SRSO": "CONFIG_CPU_SRSO",
}
"""Options that Linux 6.9 has renamed."""
OLDER_OPPOSITES: Mapping[str, str] = {"CONFIG_BASE_SMALL": "CONFIG_BASE_FULL"}
"""Options in whose place Linux before 6.10 has one that means the opposite."""


def parse(text: str) -> dict[str, str]:
    """The options of a configuration; one that is not set has the value `OFF`."""
    found = {}
    for line in text.splitlines():
        if given := re.fullmatch(r"(CONFIG_\w+)=(.*)", line.strip()):
            found[given[1]] = given[2]
        elif off := re.fullmatch(r"# (CONFIG_\w+) is not set", line.strip()):
            found[off[1]] = OFF
    return found


def render(options: Mapping[str, str]) -> str:
    """A fragment for KCONFIG_ALLCONFIG, with the older names beside the newer ones: a source
    ignores those that it does not know."""
    lines = []
    for wanted in options.items():
        for name, value in _forms(*wanted):
            lines.append(f"# {name} is not set" if value == OFF else f"{name}={value}")
    return "\n".join(lines) + "\n"


def _forms(name: str, value: str) -> Iterator[tuple[str, str]]:
    """An option as the newest source has it, and as older ones do."""
    yield name, value
    if older := OLDER_NAMES.get(name):
        yield older, value
    if opposite := OLDER_OPPOSITES.get(name):
        yield opposite, "y" if value == OFF else OFF


def lost(wanted: Mapping[str, str], result: Mapping[str, str]) -> list[str]:
    """The options that did not survive, each as `NAME=WANTED (is VALUE)`."""
    found = []
    for name, value in wanted.items():
        # A source has an option in one form only; of what it does not have, all is off.
        known = [result[one] == form for one, form in _forms(name, value) if one in result]
        if not (any(known) if known else value == OFF):
            found.append(f"{name}={value} (is {result.get(name, OFF)})")
    return found


def require_kept(wanted: Mapping[str, str], result: Path, source: str) -> None:
    """Raise ImageError when a source's configuration lacks a wanted option."""
    gone = lost(wanted, parse(result.read_text(encoding="utf-8")))
    if gone:
        raise ImageError(
            f"{source} does not keep {len(gone)} wanted options: {', '.join(gone)}",
            hint=f"their names or dependencies differ in this release: see {SLIM}",
        )

"""What a rig says of itself, so that the doctor and the site know it without running it.

Every file in rigs/ holds one `RIG = RigInfo(...)`.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import UsageError
from harness.host.requirement import Requirement


@dataclass(frozen=True)
class RigInfo:
    """`id` is the rig's name in records and commands; `tools` are programs that it runs.

    A rig that makes its sandboxes itself has no `substrates`, and says in `requirements` what it
    needs of the host.

    `options` are what a caller may set for this rig alone, each with what it means: `coppice run`
    offers them by name, pytest as `--set NAME=VALUE`, and the rig asks `rig_run.option(NAME)`.
    `flags` are options without a value: set, they are "yes". `check` raises UsageError when the
    options given make no sense, before anything is measured.

    `measured_alike` are the digests of earlier states of the rig's file that measured the same:
    records made with them still speak of what would be measured today.
    """

    id: str
    title: str
    claims: Sequence[str]
    substrates: Sequence[str]
    tools: Sequence[str] = ()
    requirements: Callable[[], Sequence[Requirement]] = tuple
    options: Mapping[str, str] = field(default_factory=dict)
    flags: Mapping[str, str] = field(default_factory=dict)
    check: Callable[[Mapping[str, str]], object] = dict
    measured_alike: Sequence[str] = ()


def listed(
    options: Mapping[str, str], name: str, otherwise: Sequence[int], least: int = 1
) -> Sequence[int]:
    """The numbers that an option names, such as 1,100, in their order; UsageError for what is none
    from `least` on."""
    words = [one for one in options.get(name, "").split(",") if one]
    if any(not one.isdecimal() or int(one) < least for one in words):
        raise UsageError(f"--{name} {options[name]}: numbers from {least} on, such as 10,100")
    return sorted({int(one) for one in words}) or otherwise


def discover(directory: Path) -> dict[str, tuple[Path, RigInfo]]:
    """Every rig under `directory` by its id, with the file that holds it."""
    found: dict[str, tuple[Path, RigInfo]] = {}
    for path in sorted(directory.glob("test_*.py")):
        spec = importlib.util.spec_from_file_location(f"rigs.{path.stem}", path)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # where its dataclasses look for their names
        spec.loader.exec_module(module)
        info = getattr(module, "RIG", None)
        if not isinstance(info, RigInfo):
            raise UsageError(f"{path} has no RIG = RigInfo(...)")
        found[info.id] = (path, info)
    return found

"""The description of a rig, which commands and pages read without running it.

Every rig file holds one `RIG = RigInfo(...)`.
"""

from __future__ import annotations

import secrets
from argparse import ArgumentTypeError
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from harness import option_types
from harness.errors import UsageError
from harness.host.requirement import Requirement
from harness.rig.tasks import Task
from harness.sandbox.protocol import Substrate, Template

Wants = Callable[[Substrate[Template]], bool]


@dataclass(frozen=True)
class RigInfo:
    """`id` is the rig's name in records and commands; `tools` are programs that it runs.

    `wants` decides from a substrate's capabilities whether the rig can measure it. None: the rig
    creates its sandboxes itself, and `requirements` are its demands on the host.

    `options` are options of this rig alone, with their help texts: `coppice run` offers them by
    name, pytest as `--set NAME=VALUE`, and the rig reads `rig_run.option(NAME)`. `flags` are
    options without a value, which are "yes" when given. `check` raises UsageError when the options
    make no sense, before anything is measured.

    `ask` asks the user at the terminal for options that are missing, and returns the answers;
    nothing where there is no terminal.

    `tasks` returns named runs of this rig, besides `bench:ID` (harness/rig/tasks.py).

    `long`: a quick run takes many minutes, so `coppice run --all` leaves it out unless it is named.

    `measured_alike` are digests of earlier versions of the rig's file that measured the same:
    records made with them are still current.
    """

    id: str
    title: str
    claims: Sequence[str]
    wants: Wants | None = None
    tools: Sequence[str] = ()
    requirements: Callable[[], Sequence[Requirement]] = tuple
    options: Mapping[str, str] = field(default_factory=dict)
    flags: Mapping[str, str] = field(default_factory=dict)
    check: Callable[[Mapping[str, str]], object] = dict
    ask: Callable[[Mapping[str, str]], Mapping[str, str]] = lambda given: {}
    tasks: Callable[[], Sequence[Task]] = tuple
    long: bool = False
    measured_alike: Sequence[str] = ()


def seed(options: Mapping[str, str]) -> int:
    """The option `seed`, or a random number where it was not given. Raises UsageError."""
    return numbers(options, "seed", [secrets.randbelow(1 << 31)], least=0, one=True)[0]


def listed(
    options: Mapping[str, str], name: str, otherwise: Sequence[int], least: int = 1
) -> Sequence[int]:
    """The numbers of an option, as `numbers` returns them, sorted and each once."""
    return sorted(set(numbers(options, name, (), least))) or otherwise


def numbers(
    options: Mapping[str, str],
    name: str,
    otherwise: Sequence[int],
    least: int = 1,
    *,
    one: bool = False,
) -> Sequence[int]:
    """The numbers of an option such as 1,100; `otherwise` if it was not given.

    Raises UsageError for anything but whole numbers of at least `least`, or not just `one`.
    """
    if name not in options:
        return otherwise
    parse = option_types.number(least)
    try:
        found = [parse(text) for text in options[name].split(",")]
    except ArgumentTypeError as error:
        raise UsageError(
            f"--{name} {options[name]}: {error}",
            hint=f"coppice run RIG --{name} {'10' if one else '10,100'}",
        ) from error
    if one and len(found) > 1:
        raise UsageError(f"--{name} {options[name]}: takes one number")
    return found


def names(
    options: Mapping[str, str], name: str, allowed: Sequence[str], otherwise: Sequence[str] = ()
) -> Sequence[str]:
    """The names of an option such as private,mapped; `otherwise` if it was not given.

    Raises UsageError for a name that is not `allowed`.
    """
    if name not in options:
        return otherwise
    given = options[name].split(",")
    for text in given:
        if text not in allowed:
            raise UsageError(
                f"--{name} {options[name]}: {text!r} is unknown",
                hint=f"known: {', '.join(allowed)}",
            )
    return given

"""Named runs of rigs: the table behind mise's tasks and every "Repeat it" line.

`python -m harness.rig` prints it in mise's format; rigs/tasks.toml is its output.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Options = Mapping[str, str]
"""Options of `coppice run RIG` by name; a flag is "yes"."""
DEFAULTS: Options = {"profile": "quick"}
SEVERAL = "concurrency"
"""An option of `coppice run` that is given once for each of its values, here joined by commas."""


@dataclass(frozen=True)
class Task:
    """`mise run NAME` is `coppice run RIG` with these options. `about` is its description."""

    name: str
    rig: str
    about: str
    options: Options

    @property
    def argv(self) -> Sequence[str]:
        """The arguments of `coppice run`."""
        return (self.rig, *as_arguments(self.options))


def as_arguments(options: Options) -> Sequence[str]:
    """Options as command-line arguments."""
    return [
        argument
        for name, values in options.items()
        for value in (values.split(",") if name == SEVERAL else (values,))
        for argument in ((f"--{name}",) if value == "yes" else (f"--{name}", value))
    ]


def repeat(tasks: Sequence[Task], rig: str, options: Options) -> str:
    """The shortest command that repeats a run of `rig` with `options`.

    The task that covers most options, with the others after `--`; if none fits, `coppice run`.
    """
    wanted = {name: value for name, value in options.items() if DEFAULTS.get(name) != value}
    best: Task | None = None
    for task in tasks:
        suits = task.rig == rig and all(
            options.get(name) == value or (name == "profile" and name in options)
            for name, value in task.options.items()
        )
        if suits and (best is None or _matching(task, options) > _matching(best, options)):
            best = task
    if best is None:
        return shlex.join(["coppice", "run", rig, *as_arguments(wanted)])
    rest = {name: value for name, value in wanted.items() if best.options.get(name) != value}
    rest |= {name: options[name] for name, value in best.options.items() if options[name] != value}
    return " ".join(
        ["mise", "run", best.name, *(["--", shlex.join(as_arguments(rest))] if rest else [])]
    )


def _matching(task: Task, options: Options) -> tuple[int, int]:
    """How many options a task shares with a run; then, negated, how many it has besides."""
    same = sum(options.get(name) == value for name, value in task.options.items())
    return same, same - len(task.options)


def as_toml(tasks: Sequence[Task]) -> str:
    """The tasks as a TOML file that mise includes."""
    lines = [
        "# Made from the rigs by `.venv/bin/python -m harness.rig > rigs/tasks.toml`;",
        "# a test compares the two. Arguments after `--` go to `coppice run`.",
    ]
    for task in sorted(tasks, key=lambda task: task.name):
        lines += [
            "",
            f'["{task.name}"]',
            f'description = "{task.about}"',
            'depends = ["setup"]',
            f'run = "{shlex.join([".venv/bin/coppice", "run", *task.argv])}"',
            "raw = true",
            "quiet = true",
        ]
    return "\n".join(lines) + "\n"

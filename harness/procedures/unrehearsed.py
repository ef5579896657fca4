"""A first program that no rehearsal has run.

Pools and checkpoints rehearse the very command that `first-exec` waits for, so its code is in every
cache and, in an emulated guest, translated already. Another program shows what a caller gets that
runs anything else. Which one an attempt runs is drawn when it is made.
"""

from __future__ import annotations

import errno
import random
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import CoppiceError, GuestRefused, MissingTool, WrongAnswer
from harness.measure.clock import without_collector
from harness.measure.record import Facts, Failure, Series
from harness.procedures.fleet import Answers, reason
from harness.procedures.ladder import Climb, conclude
from harness.procedures.launcher import Launcher
from harness.procedures.peers import build
from harness.sandbox.protocol import Sandbox

METRIC = "first-program"
STOP = "a process of a program that no rehearsal has run has returned its output"
INSTALLED: Mapping[str, Sequence[str]] = {
    "sh": ("/bin/sh", "-c", "echo {word}"),
    "ls": ("/bin/ls", "/"),
    "python3": ("/usr/bin/python3", "-c", "print('{word}')"),
    "node": ("/usr/bin/node", "-e", "console.log('{word}')"),
}
"""What each runs. A program is measured only where the sandbox has it."""
UPLOADED = "uploaded"
"""A small static binary that is written into the sandbox first; its time includes the writing."""
NAMES = (*INSTALLED, UPLOADED)
_EXPECTED = {"ls": "bin"}
"""A line of the output, where it is not the random word."""
_NOT_WRITABLE = (errno.ENOENT, errno.EROFS, errno.EACCES, errno.EPERM)


@dataclass(frozen=True)
class Attempt:
    program: str
    climb: Climb


class Missing(Exception):
    """The sandbox does not have the program, or no place to write it to and run it from."""


@dataclass(frozen=True)
class Programs:
    """What attempts run. `fresh` is the binary to upload; None where it cannot be compiled."""

    fresh: bytes | None

    @property
    def names(self) -> Sequence[str]:
        return NAMES if self.fresh else tuple(INSTALLED)

    def run(self, sandbox: Sandbox, program: str, word: str, timeout_s: float) -> None:
        """Run a program in a sandbox and check its output. Raises Missing, with the sandbox, or
        WrongAnswer."""
        expected = _EXPECTED.get(program, word)
        if program == UPLOADED:
            argv: Sequence[str] = (f"/tmp/fresh-{word}", word)
            expected = word[::-1]
            self._upload(sandbox, argv[0])
        else:
            argv = [part.format(word=word) for part in INSTALLED[program]]
        try:
            finished = sandbox.agent.run(argv, timeout_s=timeout_s)
        except GuestRefused as error:
            if error.number == errno.ENOENT or (
                error.number == errno.EACCES and program == UPLOADED  # mounted noexec
            ):
                raise Missing(sandbox) from error
            raise
        lines = finished.stdout.decode(errors="replace").split("\n")
        if finished.code or expected not in lines:
            raise WrongAnswer(f"{sandbox.id}: {program} returned {finished}")

    def _upload(self, sandbox: Sandbox, path: str) -> None:
        assert self.fresh
        try:
            # Bytes after the last section are not loaded, but make it another file.
            sandbox.agent.write_file(path, self.fresh + secrets.token_bytes(16), 0o755)
        except GuestRefused as error:
            if error.number in _NOT_WRITABLE:
                raise Missing(sandbox) from error
            raise


def programs(directory: Path) -> Programs:
    """The programs for a measurement; the one to upload is compiled in `directory`."""
    try:
        return Programs(build("fresh", directory).read_bytes())
    except MissingTool:
        return Programs(None)


def climb(
    acquire: Callable[[], Sandbox], several: Programs, program: str, timeout_s: float
) -> Climb:
    """One cold start up to the end of a program; the caller destroys the sandbox.

    Raises Missing, with the sandbox.
    """
    clock = time.perf_counter
    word = secrets.token_hex(8)
    sandbox = None
    try:
        start = clock()
        sandbox = acquire()
        made = clock()
        replied = sandbox.awaken(timeout_s)
        # `first_exec` does this in the message that starts its process; here it costs one more.
        sandbox.adopt_identity()
        several.run(sandbox, program, word, timeout_s)
        end = clock()
    except CoppiceError as error:
        return Climb({}, f"{type(error).__name__}: {error.args[0]}", sandbox)
    rungs = {"object": made, "first-reply": replied, METRIC: end}
    return Climb({rung: at - start for rung, at in rungs.items()}, None, sandbox, start)


def attempts(
    launcher: Launcher,
    several: Programs,
    count: int,
    chance: random.Random,
    own_kernel: bool,
    timeout_s: float,
) -> list[Attempt]:
    """Cold starts one at a time, each up to the end of a program that the sandboxes have."""
    found: list[Attempt] = []
    missing = set[str]()
    for program in drawn(count, several.names, chance):
        if program in missing:
            continue
        try:
            launcher.ready(1)
        except CoppiceError as error:
            why = f"the pool could not be filled: {error.args[0]}"
            found.append(Attempt(program, Climb({}, why)))
            continue
        with without_collector():
            try:
                climbed = climb(launcher.acquire, several, program, timeout_s)
            except Missing as error:
                launcher.release(error.args[0])
                missing.add(program)
                continue
        conclude([climbed], launcher.release, own_kernel)
        found.append(Attempt(program, climbed))
    return found


def run_in_each(
    sandboxes: Sequence[Sandbox], several: Programs, chance: random.Random, timeout_s: float
) -> Mapping[str, Answers]:
    """Run a program in every sandbox, one after the other; the answers by program.

    Failures have the index among the sandboxes of their program.
    """
    found: dict[str, Answers] = {}
    missing = set[str]()
    for sandbox, program in zip(
        sandboxes, drawn(len(sandboxes), several.names, chance), strict=True
    ):
        if program in missing:
            continue
        answers = found.setdefault(program, Answers())
        word = secrets.token_hex(8)
        began = time.perf_counter()
        try:
            several.run(sandbox, program, word, timeout_s)
        except Missing:
            missing.add(program)
        except CoppiceError as error:
            index = len(answers.seconds) + len(answers.failures)
            answers.failures.append((index, reason(error)))
        else:
            answers.seconds.append(time.perf_counter() - began)
    return found


def drawn(count: int, names: Sequence[str], chance: random.Random) -> Sequence[str]:
    """The programs of `count` attempts: all of them equally often, in random order."""
    names = sorted(names)
    chance.shuffle(names)
    several = [names[number % len(names)] for number in range(count)]
    chance.shuffle(several)
    return several


def series(attempts: Sequence[Attempt], dimensions: Facts) -> Sequence[Series]:
    """A series for each program that was run."""
    return [
        Series(
            metric=METRIC,
            unit="s",
            better="lower",
            dimensions={**dimensions, "program": program, "rehearsed": "no"},
            loop="closed",
            samples=[one.rungs[METRIC] for one in climbs if one.failure is None],
            failures=[Failure(i, one.failure) for i, one in enumerate(climbs) if one.failure],
        )
        for program in NAMES
        if (climbs := [one.climb for one in attempts if one.program == program])
    ]

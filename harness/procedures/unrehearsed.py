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

from harness.errors import CoppiceError, GuestRefused, WrongAnswer
from harness.measure.record import Facts, Failure, Series
from harness.procedures.ladder import Climb
from harness.sandbox.protocol import Sandbox

METRIC = "first-program"
STOP = "a process of a program that no rehearsal has run has returned its output"
PROGRAMS: Mapping[str, Sequence[str]] = {
    "sh": ("/bin/sh", "-c", "echo {word}"),
    "ls": ("/bin/ls", "/"),
    "python3": ("/usr/bin/python3", "-c", "print('{word}')"),
}
"""What each runs. A program is measured only where the sandbox has it."""
_EXPECTED = {"ls": "bin"}
"""A line of the output, where it is not the random word."""


@dataclass(frozen=True)
class Attempt:
    program: str
    climb: Climb


class Missing(Exception):
    """The sandbox does not have the program."""


def climb(acquire: Callable[[], Sandbox], program: str, timeout_s: float) -> Climb:
    """One cold start up to the end of a program; the caller destroys the sandbox.

    Raises Missing, with the sandbox.
    """
    clock = time.perf_counter
    word = secrets.token_hex(8)
    argv = [part.format(word=word) for part in PROGRAMS[program]]
    sandbox = None
    try:
        start = clock()
        sandbox = acquire()
        made = clock()
        replied = sandbox.awaken(timeout_s)
        # `first_exec` does this in the message that starts its process; here it costs one more.
        sandbox.adopt_identity()
        finished = sandbox.agent.run(argv, timeout_s=timeout_s)
        end = clock()
        lines = finished.stdout.decode(errors="replace").split("\n")
        if finished.code or _EXPECTED.get(program, word) not in lines:
            raise WrongAnswer(f"{sandbox.id}: {program} returned {finished}")
    except GuestRefused as error:
        if sandbox and error.number == errno.ENOENT:
            raise Missing(sandbox) from error
        return Climb({}, f"{type(error).__name__}: {error.args[0]}", sandbox)
    except CoppiceError as error:
        return Climb({}, f"{type(error).__name__}: {error.args[0]}", sandbox)
    rungs = {"object": made, "first-reply": replied, METRIC: end}
    return Climb({rung: at - start for rung, at in rungs.items()}, None, sandbox, start)


def drawn(count: int, chance: random.Random) -> Sequence[str]:
    """The programs of `count` attempts: all of them equally often, in random order."""
    names = sorted(PROGRAMS)
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
        for program in PROGRAMS
        if (climbs := [one.climb for one in attempts if one.program == program])
    ]

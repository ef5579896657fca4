"""One cold start, timed from the caller's request to every rung of the ladder.

    object -> resumed -> first-reply -> first-exec -> first-touch

All rungs of a cold start are timed from the same event. Nothing is imported or spawned in between.
At concurrency 1 one cold start gives every rung. At higher concurrency a cold start ends at the
rung that is measured: sandboxes that go on would slow down those still on their way, and the result
would be of a mixture.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from harness.errors import CoppiceError, SandboxError, WrongAnswer
from harness.host.boot import boot_id
from harness.measure import wall_clock
from harness.measure.clock import LADDER
from harness.measure.wall_clock import Reading
from harness.procedures.gate import at_once
from harness.sandbox.protocol import Sandbox

RUNGS = tuple(rung.name for rung in LADDER)
WORKING_SET_MIB = 16


@dataclass
class Climb:
    """Seconds from the request to each rung reached, or the reason for having none."""

    rungs: dict[str, float]
    failure: str | None = None
    sandbox: Sandbox | None = None
    start: float = 0.0
    clocks: Reading | None = None
    """The clocks before the request."""


def climb(acquire: Callable[[], Sandbox], upto: str, timeout_s: float) -> Climb:
    """One cold start up to the rung `upto`; the caller destroys the sandbox."""
    clock = time.perf_counter
    word = secrets.token_hex(8)
    sandbox = None
    ends: dict[str, float] = {}
    try:
        start = clock()
        sandbox = acquire()
        ends["object"] = clock()
        ends["first-reply"] = sandbox.awaken(timeout_s)
        if upto != "first-reply":
            finished = sandbox.first_exec(word)
            ends["first-exec"] = clock()
            if upto != "first-exec":
                sandbox.touch(WORKING_SET_MIB)
                ends["first-touch"] = clock()
            if finished.code or finished.stdout != f"{word}\n".encode():
                raise WrongAnswer(f"{sandbox.id}: the first process returned {finished}")
    except CoppiceError as error:
        return Climb({}, f"{type(error).__name__}: {error.args[0]}", sandbox)
    return Climb({rung: end - start for rung, end in ends.items()}, None, sandbox, start)


def prove_own_kernel(sandbox: Sandbox) -> None:
    """Raise SandboxError if the sandbox runs on this host's kernel; checked for every microVM."""
    if sandbox.agent.hello()["boot_id"] == boot_id():
        raise SandboxError(f"{sandbox.id} runs on this host's kernel, not on one of its own")


def climb_together(
    count: int, acquire: Callable[[], Sandbox], upto: str, timeout_s: float
) -> Sequence[Climb]:
    """`count` concurrent cold starts, one thread each, started by one gate.

    Returns when all have reached `upto`, so that what the caller does with a sandbox does not load
    the host while others are still on their way.
    """
    clocks = wall_clock.read()
    if count == 1:
        alone = climb(acquire, upto, timeout_s)
        alone.clocks = clocks
        return [alone]
    climbs: list[Climb] = [Climb({}, "never started")] * count

    def run(index: int) -> None:
        climbs[index] = climb(acquire, upto, timeout_s)

    at_once([partial(run, index) for index in range(count)])
    for each in climbs:
        each.clocks = clocks
    return climbs


def conclude(climbs: Sequence[Climb], release: Callable[[Sandbox], None], own_kernel: bool) -> None:
    """Verify the kernels, get the moments of resuming, and release every sandbox.

    A climb that fails this has no times.
    """
    for done in climbs:
        if done.sandbox is None:
            continue
        try:
            if done.failure is None:
                # The vCPU ran before the reply, whatever the VMM's timestamp.
                moment = done.sandbox.resumed_at()
                resumed = moment - done.start
                if done.clocks:
                    wall_clock.watch.attempt(done.clocks)
                if moment and resumed < done.rungs["object"] - wall_clock.STEP_S:
                    wall_clock.watch.early()
                bounded = min(max(resumed, done.rungs["object"]), done.rungs["first-reply"])
                done.rungs["resumed"] = bounded
                if own_kernel:
                    prove_own_kernel(done.sandbox)
        except CoppiceError as error:
            done.failure, done.rungs = f"{type(error).__name__}: {error.args[0]}", {}
        finally:
            release(done.sandbox)
            done.sandbox = None

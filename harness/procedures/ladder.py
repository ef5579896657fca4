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
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial

from harness.errors import CoppiceError, SandboxError, WrongAnswer
from harness.host.boot import boot_id
from harness.measure import wall_clock
from harness.measure.clock import LADDER
from harness.measure.record import NOT_OFFERED, Facts, Failure, Series
from harness.measure.wall_clock import Reading
from harness.procedures.gate import at_once
from harness.sandbox.protocol import Sandbox

RUNGS = tuple(rung.name for rung in LADDER)
WORKING_SET_MIB = 16
NO_KERNEL = "none"
"""What a guest reports as its kernel that is a single program in a VM."""


@dataclass
class Climb:
    """Seconds from the request to each rung reached, or the reason for having none."""

    rungs: dict[str, float]
    failure: str | None = None
    sandbox: Sandbox | None = None
    start: float = 0.0
    clocks: Reading | None = None
    """The clocks before the request."""


def climb(
    acquire: Callable[[], Sandbox], upto: str, timeout_s: float, without: Collection[str] = ()
) -> Climb:
    """One cold start up to the rung `upto`; the caller destroys the sandbox.

    It passes by the rungs `without`, which the substrate does not offer.
    """
    clock = time.perf_counter
    word = secrets.token_hex(8)
    sandbox = finished = None
    ends: dict[str, float] = {}
    try:
        start = clock()
        sandbox = acquire()
        ends["object"] = clock()
        ends["first-reply"] = sandbox.awaken(timeout_s)
        if upto != "first-reply":
            if "first-exec" not in without:
                finished = sandbox.first_exec(word)
                ends["first-exec"] = clock()
            if upto != "first-exec" and "first-touch" not in without:
                sandbox.touch(WORKING_SET_MIB)
                ends["first-touch"] = clock()
            if finished and (finished.code or finished.stdout != f"{word}\n".encode()):
                raise WrongAnswer(f"{sandbox.id}: the first process returned {finished}")
    except CoppiceError as error:
        return Climb({}, f"{type(error).__name__}: {error.args[0]}", sandbox)
    return Climb({rung: end - start for rung, end in ends.items()}, None, sandbox, start)


def prove_own_kernel(sandbox: Sandbox) -> None:
    """Raise SandboxError if the sandbox runs on this host's kernel; checked for every microVM."""
    told = sandbox.agent.hello()
    if told.get("kernel") == NO_KERNEL:
        raise SandboxError(f"{sandbox.id} runs on no kernel, not on one of its own")
    if told["boot_id"] == boot_id():
        raise SandboxError(f"{sandbox.id} runs on this host's kernel, not on one of its own")


def not_offered(rung: str, why: str, dimensions: Facts) -> Series:
    """The series of a rung that a substrate does not offer."""
    return Series(
        metric=rung,
        unit="s",
        better="lower",
        dimensions=dimensions,
        loop="closed",
        failures=[Failure(0, why, NOT_OFFERED)],
    )


def climb_together(
    count: int,
    acquire: Callable[[], Sandbox],
    upto: str,
    timeout_s: float,
    without: Collection[str] = (),
) -> Sequence[Climb]:
    """`count` concurrent cold starts, one thread each, started by one gate.

    Returns when all have reached `upto`, so that what the caller does with a sandbox does not load
    the host while others are still on their way.
    """
    clocks = wall_clock.read()
    if count == 1:
        alone = climb(acquire, upto, timeout_s, without)
        alone.clocks = clocks
        return [alone]
    climbs: list[Climb] = [Climb({}, "never started")] * count

    def run(index: int) -> None:
        climbs[index] = climb(acquire, upto, timeout_s, without)

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

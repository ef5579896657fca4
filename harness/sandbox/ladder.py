"""One cold start, timed from the caller's request up every rung of the ladder.

    object -> resumed -> first-reply -> first-exec -> first-touch

All rungs of one cold start have one start event. Nothing is imported or spawned between them.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import CoppiceError, SandboxError, WrongAnswer
from harness.sandbox.protocol import Sandbox

RUNGS = ("object", "resumed", "first-reply", "first-exec", "first-touch")
WORKING_SET_MIB = 16


@dataclass(frozen=True)
class Climb:
    """Seconds from the request to each rung, or why there are none."""

    rungs: Mapping[str, float]
    failure: str | None = None


def climb(
    acquire: Callable[[], Sandbox],
    release: Callable[[Sandbox], None],
    *,
    own_kernel: bool,
    timeout_s: float,
) -> Climb:
    """One cold start; the sandbox is released whatever happens."""
    word = secrets.token_hex(8)
    sandbox = None
    clock = time.perf_counter
    try:
        start = clock()
        sandbox = acquire()
        made = clock()
        replied = sandbox.awaken(timeout_s)
        finished = sandbox.first_exec(word)
        executed = clock()
        sandbox.touch(WORKING_SET_MIB)
        touched = clock()
        if finished.code or finished.stdout != f"{word}\n".encode():
            raise WrongAnswer(f"{sandbox.id}: the first process returned {finished}")
        if own_kernel:
            prove_own_kernel(sandbox)
        # A reply shows that the vCPU runs, so the VMM's own word cannot be later than it.
        resumed = min(max(sandbox.resumed_at(), made), replied)
    except CoppiceError as error:
        return Climb({}, f"{type(error).__name__}: {error.args[0]}")
    finally:
        if sandbox is not None:
            release(sandbox)
    ends = (made, resumed, replied, executed, touched)
    return Climb({rung: end - start for rung, end in zip(RUNGS, ends, strict=True)})


def prove_own_kernel(sandbox: Sandbox) -> None:
    """SandboxError unless a kernel other than this host's answers: no record of a microVM without."""
    ours = Path("/proc/sys/kernel/random/boot_id")
    theirs = sandbox.agent.hello()["boot_id"]
    if ours.exists() and theirs == ours.read_text().strip():
        raise SandboxError(f"{sandbox.id} runs on this host's kernel, not on one of its own")


def climb_together(count: int, one: Callable[[], Climb]) -> Sequence[Climb]:
    """`count` cold starts at once, each from a thread of its own, let go by one barrier."""
    if count == 1:
        return [one()]
    barrier = threading.Barrier(count)
    climbs: list[Climb] = [Climb({}, "never started")] * count

    def run(index: int) -> None:
        barrier.wait()
        climbs[index] = one()

    threads = [threading.Thread(target=run, args=(index,)) for index in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return climbs

"""Work that generators in other processes carry out; they import it from here."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from harness.errors import CoppiceError
from harness.load import generator
from harness.load.arrivals import Schedule
from harness.load.fan_out import Together
from harness.load.generator import Attempt, Outcome

VICTIM = "victim"
"""The kind of arrival that kills its generator."""
STOPPER = "stopper"
"""The kind of arrival that stops its generator with SIGSTOP."""


async def quick(part: Schedule, together: Together) -> Outcome:
    """Each life is usable at once, and names its process in a mark."""

    async def life(attempt: Attempt) -> None:
        if attempt.arrival.kind == VICTIM:
            os.kill(os.getpid(), signal.SIGKILL)
        if attempt.arrival.kind == STOPPER:
            os.kill(os.getpid(), signal.SIGSTOP)
        attempt.mark("usable")
        attempt.marks["pid"] = os.getpid()

    return await generator.run(part, life, start=await together.start())


async def held(part: Schedule, together: Together) -> Outcome:
    """Each life is held until those of all generators are there."""

    async def life(attempt: Attempt) -> None:
        if attempt.arrival.kind == VICTIM:
            os.kill(os.getpid(), signal.SIGKILL)
        attempt.mark("usable")
        await attempt.all_settled()
        await together("all there")
        attempt.mark("released")

    return await generator.run(part, life, start=await together.start())


async def endless(directory: str, part: Schedule, together: Together) -> Outcome:
    """It ends only when it is stopped, and leaves a file then."""
    await together.start()
    place = Path(directory) / str(os.getpid())
    place.with_suffix(".begun").touch()
    try:
        await together("begun")
        await asyncio.sleep(3600)
        raise AssertionError
    finally:
        place.with_suffix(".ended").touch()


async def failing_or_endless(directory: str, part: Schedule, together: Together) -> Outcome:
    """The generator of the first arrival fails, and the others are endless."""
    if part.entries[0].at_s:
        return await endless(directory, part, together)
    await together.start()
    await together("begun")
    raise CoppiceError("broken on purpose")

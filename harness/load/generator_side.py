"""What runs inside a generator: its part of a storm, and the stages that it passes with the others.

A generator has two threads. The event loop of the storm runs in the one that was given the task;
the other receives what the control side sends. Nothing here imports dask.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import time
from collections.abc import Callable, Mapping
from typing import Any

from harness.errors import CoppiceError
from harness.load.arrivals import Schedule
from harness.load.fan_out import Work
from harness.load.generator import Outcome, on_fresh_loop
from harness.measure import provenance
from harness.measure.clock import without_collector

BEAT_S = 1.0
"""How often a generator reports that it goes on."""
Report = Callable[[dict[str, Any]], None]


class Storm:
    """The storm of generator `number` that goes on in this process. Implements `Together`."""

    def __init__(self, number: int, report: Report) -> None:
        self.number, self._report = number, report
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[Any] | None = None
        self._start: float | None = None
        self._reached: set[str] = set()
        self._entered: set[str] = set()
        self._changed = asyncio.Event()
        self._stopped = False

    async def carry_out(self, work: Work, part: Schedule) -> Outcome:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        if self._stopped:  # before this loop ran
            raise asyncio.CancelledError
        beating = asyncio.create_task(self._beat())
        try:
            return await work(part, self)
        finally:
            beating.cancel()

    async def _beat(self) -> None:
        while True:
            self._report({})
            await asyncio.sleep(BEAT_S)

    async def start(self) -> float:
        self._report({"ready": True})
        while self._start is None:
            await self._change()
        return self._start

    async def __call__(self, stage: str) -> None:
        if stage not in self._reached:
            self._reached.add(stage)
            self._report({"reached": stage})
        while stage not in self._entered:
            await self._change()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def begin(self, starts: Mapping[int, float]) -> None:
        """Give every generator its start, on its own clock. From any thread."""
        self._start = starts[self.number]
        self._call(self._changed.set)

    def enter(self, stage: str) -> None:
        """Let it go on into a stage. From any thread."""
        self._entered.add(stage)
        self._call(self._changed.set)

    def stop(self) -> None:
        """Cancel it; its lives end first. From any thread."""
        self._stopped = True
        self._call(lambda: self._task and self._task.cancel())

    def _call(self, function: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError):  # its loop has just ended
            if self._loop:
                self._loop.call_soon_threadsafe(function)


_storms: dict[str, Storm] = {}


def carry_out(id: str, number: int, work: Work, part: Schedule, report: Report) -> Outcome:
    """Carry out a part of a storm, as generator `number`. CoppiceError if it was stopped.

    It makes no request before the control side has given it a start, which it does once: whatever
    a scheduler sends a second time waits until it is stopped.
    """
    storm = _storms[id] = Storm(number, report)
    allow_descriptors()
    try:
        with without_collector():
            return on_fresh_loop(storm.carry_out(work, part))
    except asyncio.CancelledError:
        raise CoppiceError("the storm was stopped") from None
    finally:
        del _storms[id]


def begin(id: str, starts: Mapping[int, float]) -> None:
    """Give a storm of this process its start."""
    if storm := _storms.get(id):
        storm.begin(starts)


def enter(id: str, stage: str) -> None:
    """Let a storm of this process go on into a stage, if it is still there."""
    if storm := _storms.get(id):
        storm.enter(stage)


def stop(id: str) -> None:
    """Stop a storm of this process, if it is still there."""
    if storm := _storms.get(id):
        storm.stop()


def allow_descriptors() -> None:
    """Each connection needs one; the soft limit is often far below what this process may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with contextlib.suppress(OSError, ValueError):  # FreeBSD may cap it below
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def clock() -> float:
    """This process's time.perf_counter."""
    return time.perf_counter()


def process_id() -> int:
    return os.getpid()


def harness() -> str:
    """The version of this process's harness."""
    return provenance.harness().version

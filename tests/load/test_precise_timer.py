"""A wait ends when its moment has come, not before, and leaves no descriptor."""

from __future__ import annotations

import asyncio
import sys
import time

import pytest

from harness.load import precise_timer
from harness.load.generator import on_fresh_loop
from harness.load.precise_timer import KernelTimer, LoopTimer
from harness.load.self_watch import open_descriptors

LOOPS = pytest.mark.parametrize("run", [on_fresh_loop, asyncio.run])


@LOOPS
@pytest.mark.parametrize("kernel", [True, False])
def test_no_wait_ends_early(run: object, kernel: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not kernel:
        monkeypatch.setattr(precise_timer, "_descriptor", lambda: None)

    async def wait() -> list[float]:
        late = []
        with precise_timer.opened() as timer:
            assert isinstance(
                timer, KernelTimer if kernel and sys.platform == "linux" else LoopTimer
            )
            for seconds in (-1, 0, 1e-9, 0.0001, 0.0031, 0.02):
                moment = time.perf_counter() + seconds
                await timer.until(moment)
                late.append(time.perf_counter() - moment)
        return late

    before = open_descriptors()
    assert min(run(wait())) >= 0  # type: ignore[operator]
    assert open_descriptors() == before


@LOOPS
def test_the_event_loop_runs_meanwhile_and_a_wait_can_be_cancelled(run: object) -> None:
    async def cancelled() -> None:
        with precise_timer.opened() as timer:
            waiting = asyncio.create_task(timer.until(time.perf_counter() + 3600))
            await asyncio.sleep(0.01)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            moment = time.perf_counter() + 0.01
            await timer.until(moment)
            assert time.perf_counter() >= moment

    before = open_descriptors()
    run(cancelled())  # type: ignore[operator]
    assert open_descriptors() == before

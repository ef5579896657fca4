"""The queue of callers that wait for a sandbox of a pool, on the event loop."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from harness.sandbox.lifetime import Destroyable
from harness.sandbox.pool import Pool

S = TypeVar("S", bound=Destroyable)


class PoolQueue(Generic[S]):
    """The queue of one pool. A sandbox that is ready is returned at once, without a thread."""

    def __init__(self, pool: Pool[S]) -> None:
        self._pool = pool
        # A single thread serves the callers in order, and leaves other threads to other work.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="queue")

    async def take(self, timeout_s: float) -> S:
        """A sandbox. Raises what the pool's `check_out` raises; a cancelled caller gets none."""
        if sandbox := self._pool.check_out_now():
            return sandbox
        deadline = time.monotonic() + timeout_s
        waiting = self._thread.submit(
            lambda: self._pool.check_out(max(deadline - time.monotonic(), 0.0))
        )
        try:
            return await asyncio.wrap_future(waiting)
        except asyncio.CancelledError:
            waiting.add_done_callback(self._put_back)
            raise

    def _put_back(self, waiting: Future[S]) -> None:
        if not waiting.cancelled() and not waiting.exception():
            self._pool.put_back(waiting.result())

    def close(self) -> None:
        """Call this once the pool is drained, which ends all waiting."""
        self._thread.shutdown(cancel_futures=True)

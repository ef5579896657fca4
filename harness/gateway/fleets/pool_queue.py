"""The queue of callers that wait for a sandbox of a pool, on the event loop.

A caller who would wait too long is refused at once, and told when to try again: a queue that only
grows serves no caller in time.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from harness.errors import Overloaded
from harness.sandbox.lifetime import Destroyable
from harness.sandbox.pool import Pool

S = TypeVar("S", bound=Destroyable)
HOPELESS_S = 10.0
"""The longest expected wait of a caller who is not refused."""


class PoolQueue(Generic[S]):
    """The queue of one pool. A sandbox that is ready is returned at once, without a thread."""

    def __init__(self, pool: Pool[S]) -> None:
        self._pool = pool
        # A single thread serves the callers in order, and leaves other threads to other work.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="queue")

    async def take(self, timeout_s: float) -> S:
        """A sandbox. Raises what the pool's `check_out` raises, and Overloaded; a cancelled caller
        gets none."""
        # Who waits already comes first.
        if not self._pool.expected and (sandbox := self._pool.check_out_now()):
            return sandbox
        self._require_hope(min(timeout_s, HOPELESS_S))
        deadline = time.monotonic() + timeout_s
        self._pool.expect(1)
        waiting = self._thread.submit(self._wait, deadline)
        # Also when it is cancelled before the thread comes to it.
        waiting.add_done_callback(lambda _: self._pool.expect(-1))
        try:
            return await asyncio.wrap_future(waiting)
        except asyncio.CancelledError:
            waiting.add_done_callback(self._put_back)
            raise

    def _require_hope(self, limit_s: float) -> None:
        wait_s = self._pool.expected_wait_s()
        if wait_s > limit_s:
            raise Overloaded(
                f"{self._pool.expected} callers wait for a sandbox, and another would for about "
                f"{wait_s:.0f} s",
                retry_after_s=wait_s - limit_s / 2,
            )

    def _wait(self, deadline: float) -> S:
        return self._pool.check_out(max(deadline - time.monotonic(), 0.0))

    def _put_back(self, waiting: Future[S]) -> None:
        if not waiting.cancelled() and not waiting.exception():
            self._pool.put_back(waiting.result())

    def close(self) -> None:
        """Call this once the pool is drained, which ends all waiting."""
        self._thread.shutdown(cancel_futures=True)

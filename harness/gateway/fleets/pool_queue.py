"""Who waits for a pool of sandboxes, on the event loop: first come, first served."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from harness.sandbox.lifetime import Destroyable
from harness.sandbox.pool import Pool

S = TypeVar("S", bound=Destroyable)


class Queue(Generic[S]):
    """Of one pool. One that is ready is had at once, without a thread."""

    def __init__(self, pool: Pool[S]) -> None:
        self._pool = pool
        # One thread: whoever waits is served in turn, and keeps no other work waiting.
        self._turns = ThreadPoolExecutor(1, thread_name_prefix="queue")

    async def take(self, timeout_s: float) -> S:
        """One of the pool. Raises what its `check_out` raises; who is cancelled takes none."""
        if made := self._pool.check_out_now():
            return made
        deadline = time.monotonic() + timeout_s
        turn = self._turns.submit(
            lambda: self._pool.check_out(max(deadline - time.monotonic(), 0.0))
        )
        try:
            return await asyncio.wrap_future(turn)
        except asyncio.CancelledError:
            turn.add_done_callback(self._return)
            raise

    def _return(self, turn: Future[S]) -> None:
        if not turn.cancelled() and not turn.exception():
            self._pool.put_back(turn.result())

    def close(self) -> None:
        """After the pool was drained, which ends all waiting."""
        self._turns.shutdown(cancel_futures=True)

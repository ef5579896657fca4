"""The queue of callers that wait for a sandbox of a pool, on the event loop.

Keys take turns: a caller does not wait behind all that another key asks for. A caller who would
wait too long is refused at once, and told when to try again: a queue that only grows serves no
caller in time.
"""

from __future__ import annotations

import asyncio
import random
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from harness.errors import GuestTimeout, Overloaded
from harness.gateway.fleets.key_turns import KeyTurns
from harness.sandbox.lifetime import Destroyable
from harness.sandbox.pool import Pool

S = TypeVar("S", bound=Destroyable)
HOPELESS_S = 10.0
"""The longest expected wait of a caller who is not refused."""
SPREAD = 0.5
"""The part of the told time by which callers are spread, who would else return together."""
LAUNCH_LIMIT_S = 3600.0
"""For a pool that neither makes a sandbox nor fails. Callers have shorter limits of their own."""


class PoolQueue(Generic[S]):
    """The queue of one pool. A sandbox that is ready is returned at once, without a thread."""

    def __init__(self, pool: Pool[S]) -> None:
        self._pool = pool
        self._turns: KeyTurns[Future[S]] = KeyTurns()
        self._serving = False
        self._lock = threading.Lock()
        # A single thread serves the callers in order, and leaves other threads to other work.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="queue")

    async def take(self, key_id: str, timeout_s: float) -> S:
        """A sandbox for a caller of this key. Raises what the pool's `check_out` raises, and
        Overloaded; a cancelled caller gets none."""
        # Who waits already comes first.
        if not self._pool.expected and (sandbox := self._pool.check_out_now()):
            return sandbox
        self._require_hope(key_id, min(timeout_s, HOPELESS_S))
        waiting = self._begin(key_id)
        try:
            async with asyncio.timeout(timeout_s) as limit:
                try:
                    return await asyncio.wrap_future(waiting)
                except asyncio.CancelledError:
                    waiting.add_done_callback(self._put_back)
                    raise
        except TimeoutError:
            if not limit.expired():
                raise  # of a launch
            raise GuestTimeout(
                f"the pool of {self._pool.size} had no sandbox ready in time"
            ) from None

    def _require_hope(self, key_id: str, limit_s: float) -> None:
        with self._lock:
            ahead = self._turns.ahead(key_id)
        wait_s = self._pool.expected_wait_s(ahead)
        if wait_s > limit_s:
            raise Overloaded(
                f"{self._pool.expected} callers wait for a sandbox, and another would for about "
                f"{wait_s:.0f} s",
                retry_after_s=(wait_s - limit_s / 2) * random.uniform(1.0, 1.0 + SPREAD),
            )

    def _begin(self, key_id: str) -> Future[S]:
        """Wait for a turn of this key."""
        waiting: Future[S] = Future()
        self._pool.expect(1)
        waiting.add_done_callback(lambda _: self._pool.expect(-1))
        with self._lock:
            self._turns.add(key_id, waiting)
            if not self._serving:
                self._thread.submit(self._serve)
                self._serving = True

        def leave(_: Future[S]) -> None:
            with self._lock:
                self._turns.remove(key_id, waiting)

        waiting.add_done_callback(leave)
        return waiting

    def _put_back(self, waiting: Future[S]) -> None:
        if not waiting.cancelled() and not waiting.exception():
            self._pool.put_back(waiting.result())

    # In the queue's thread.

    def _serve(self) -> None:
        """Until no caller waits. Whose turn it is is known only once there is a sandbox."""
        while self._waited_for():
            try:
                sandbox = self._pool.check_out(LAUNCH_LIMIT_S)
                if caller := self._next():
                    caller.set_result(sandbox)
                else:
                    self._pool.put_back(sandbox)
            except Exception as error:  # of a launch; raised again in the caller
                if caller := self._next():
                    caller.set_exception(error)

    def _waited_for(self) -> bool:
        with self._lock:
            self._serving = bool(self._turns)
            return self._serving

    def _next(self) -> Future[S] | None:
        """The caller whose turn it is and who has not left."""
        while True:
            with self._lock:
                caller = self._turns.next()
            if caller is None or caller.set_running_or_notify_cancel():
                return caller

    def close(self) -> None:
        """Call this once the pool is drained, which ends all waiting."""
        self._thread.shutdown()

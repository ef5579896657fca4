"""The threads that do a gateway's blocking work, and changes of state that outlive their callers.

Saving and resuming wait for a guest, which may hang. Each such job has a thread of its own, and
each key a limit of jobs at once: guests that hang delay nothing of other keys, and those of the
same key only in great number. Writing a save has a lower limit, which spares the disk and is not
held while a guest is waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from harness.errors import CoppiceError
from harness.gateway.errors import ApiError
from harness.sandbox.lifetime import Destroyable

SHORT_THREADS = 8
LONG_THREADS = 256
LONG_OF_A_KEY = 32
SAVES_OF_A_KEY, RESUMES_OF_A_KEY, ENDS_OF_A_KEY = 2, 4, 8
"""At the same time."""
log = logging.getLogger("coppice.gateway")
T = TypeVar("T")
D = TypeVar("D", bound=Destroyable)


class Workers:
    """Runs on the event loop; the work is done in threads."""

    def __init__(self) -> None:
        self._short = ThreadPoolExecutor(SHORT_THREADS, thread_name_prefix="sandboxes")
        self._long = ThreadPoolExecutor(LONG_THREADS, thread_name_prefix="savers")
        self._jobs = _Limits(LONG_OF_A_KEY)
        self._saves = _Limits(SAVES_OF_A_KEY)
        self._resumes = _Limits(RESUMES_OF_A_KEY)
        self._ends = _Limits(ENDS_OF_A_KEY)
        self._changes: set[asyncio.Task[Any]] = set()

    async def short(self, work: Callable[[], T]) -> T:
        """Run blocking work that takes milliseconds."""
        return await asyncio.get_running_loop().run_in_executor(self._short, work)

    async def long(self, key_id: str, work: Callable[[], T]) -> T:
        """Run work that may wait for a guest of this key."""
        async with self._jobs.of(key_id):
            return await asyncio.get_running_loop().run_in_executor(self._long, work)

    async def saving(self, key_id: str, work: Callable[[], T]) -> T:
        """Run work that writes a save of this key, and waits for no guest."""
        async with self._saves.of(key_id):
            return await self.long(key_id, work)

    async def ending(self, key_id: str, work: Callable[[], T]) -> T:
        """Run work that ends a sandbox of this key."""
        async with self._ends.of(key_id):
            return await asyncio.get_running_loop().run_in_executor(self._long, work)

    async def made(self, key_id: str, make: Callable[[], D]) -> D:
        """A sandbox that `make` resumes from a save. If the caller is cancelled meanwhile, who will
        never learn of it, it is destroyed; until then it counts against the limits."""
        abandoned = False

        async def run() -> D:
            async with self._resumes.of(key_id), self._jobs.of(key_id):
                if abandoned:
                    raise asyncio.CancelledError
                loop = asyncio.get_running_loop()
                sandbox = await loop.run_in_executor(self._long, make)
                if abandoned:
                    await loop.run_in_executor(self._long, sandbox.destroy)
                return sandbox

        making = self._begin(run())
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:
            abandoned = True
            if making.done() and not making.cancelled() and not making.exception():
                self._long.submit(making.result().destroy)  # it was ready at the same moment
            raise

    def _begin(self, change: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(change)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        return task

    async def to_its_end(self, change: Coroutine[Any, Any, T]) -> T:
        """Await a change of state, which goes on to its end if the caller is cancelled."""
        return await asyncio.shield(self._begin(change))

    def spawn(self, change: Coroutine[Any, Any, Any]) -> None:
        """Make a change in the background; an error is logged."""

        async def run() -> None:
            try:
                await change
            except (ApiError, CoppiceError, OSError) as error:
                log.error("a change failed", extra={"fields": {"why": str(error)}})

        self._begin(run())

    async def settle(self) -> None:
        """Wait for the changes under way."""
        while self._changes:
            await asyncio.wait(self._changes)

    def close(self) -> None:
        self._short.shutdown(cancel_futures=True)
        self._long.shutdown()


class _Limits:
    """At most `count` holders at once for each key; keys without holders take no memory."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._by_key: dict[str, tuple[asyncio.Semaphore, int]] = {}

    @contextlib.asynccontextmanager
    async def of(self, key_id: str) -> AsyncIterator[None]:
        semaphore, users = self._by_key.get(key_id) or (asyncio.Semaphore(self._count), 0)
        self._by_key[key_id] = semaphore, users + 1
        try:
            async with semaphore:
                yield
        finally:
            semaphore, users = self._by_key[key_id]
            if users > 1:
                self._by_key[key_id] = semaphore, users - 1
            else:
                del self._by_key[key_id]

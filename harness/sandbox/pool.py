"""Pools: sandboxes that are launched before a caller asks for one.

A caller checks a sandbox out and gives it back; it is then destroyed, never reused. With `refill`
the pool replaces what was checked out, in the background and at once, up to its size; for callers
that wait it launches beyond that. A pool is thread-safe.
Several processes may have pools of the same checkpoint: they share only the address leases
(harness/host/identity.py) and the host's free memory, which is checked before every launch. What a
killed owner leaves behind is found by its run's id (harness/host/leftovers.py).
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, Self, TypeVar

from harness.errors import GuestTimeout, NotEnoughMemory
from harness.host.memory import available_memory, memory_floor
from harness.sandbox.launch_rate import LaunchRate
from harness.sandbox.lifetime import Destroyable

WORKERS = 8
"""Concurrent launches: a launch mostly waits."""
MAX_FAILURES = 3


S = TypeVar("S", bound=Destroyable)


class Drained(GuestTimeout):
    """The pool was drained while a caller waited."""


class Pool(Generic[S]):
    """Up to `size` ready sandboxes. `launch` makes one; `memory_each` is the memory it takes, in
    bytes. With `lends` the pool also destroys, when it is drained, what is checked out; without,
    a sandbox belongs to its caller from the check-out on. `workers` launches run at once, and
    each calls `before` first, which may wait for something more urgent and tells whether it did.
    `newest_first` hands out what was made last."""

    def __init__(
        self,
        launch: Callable[[], S],
        size: int,
        *,
        memory_each: int = 0,
        refill: bool = True,
        lends: bool = True,
        workers: int = WORKERS,
        before: Callable[[], bool] = bool,
        newest_first: bool = False,
    ) -> None:
        self.size = size
        self._launch = launch
        self._memory_each = memory_each
        self._refill = refill
        self._lends = lends
        self._ready: deque[S] = deque()
        self._out: set[S] = set()
        self.awaited = 0
        """Number of callers that are waiting in `check_out`."""
        self.expected = 0
        """Number of callers for whom sandboxes are launched beyond the pool's size."""
        self._before = before
        self._newest_first = newest_first
        self._worker_count = workers
        self._rate = LaunchRate(workers)
        self._change = threading.Condition()
        self._launching = 0
        self._failures: list[Exception] = []
        self._failed_in_a_row = 0
        self._closed = False
        self._workers = ThreadPoolExecutor(workers, thread_name_prefix="pool")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.drain()

    @property
    def ready(self) -> int:
        """Number of sandboxes that can be checked out now."""
        return len(self._ready)

    @property
    def under_way(self) -> int:
        """Number of launches that are wanted and have not ended."""
        return self._launching

    def fill(self, count: int | None = None) -> None:
        """Launch sandboxes until `count` (default: `size`) are ready, and wait for them.

        Raises NotEnoughMemory before the first launch, or the last launch's error.
        """
        wanted = self.size if count is None else count
        with self._change:
            # With the lock: a launch that ends between two looks would be counted in neither.
            missing = wanted - self.ready - self._launching
            self._admit(missing)
            self._failures.clear()
            self._failed_in_a_row = 0
            for _ in range(missing):
                self._start_one()
            while self.ready < wanted and self._launching and not self._closed:
                self._change.wait()
            if self._closed:
                raise self._drained()
            if self.ready < wanted:
                raise self._failures[-1]

    def _admit(self, count: int) -> None:
        floor = memory_floor()
        need, have = count * self._memory_each, available_memory() - floor
        if count > 0 and need > have:
            raise NotEnoughMemory(
                f"{count} sandboxes of about {self._memory_each >> 20} MiB need {need >> 20} MiB; "
                f"this host has {max(have, 0) >> 20} MiB available "
                f"beyond the {floor >> 20} MiB that stay free",
                hint=f"request at most {max(have, 0) // max(self._memory_each, 1)}",
            )

    def _start_one(self) -> None:
        """The caller holds the lock."""
        if self._closed:
            return
        self._launching += 1
        self._workers.submit(self._work)

    def _work(self) -> None:
        made = None
        waited = self._before()
        with self._change:
            if waited:
                self._rate.interrupted()
            # Put back meanwhile, or no longer waited for.
            if self._refill and self.ready + self._launching > self._most:
                self._launching -= 1
                self._change.notify_all()
                return
        try:
            self._admit(1)
            began = time.monotonic()
            made = self._launch()
            ended = time.monotonic()
        except Exception as error:  # raised again in the caller that waits for this sandbox
            with self._change:
                self._failures.append(error)
                self._failed_in_a_row += 1
        finally:
            with self._change:
                self._launching -= 1
                if made is not None:
                    self._failed_in_a_row = 0
                    # Launches that are still wanted occupy all workers, this one's too.
                    busy = self._launching >= self._worker_count
                    self._rate.note(began, ended, busy=busy)
                    if self._has_room():
                        self._ready.append(made)
                        made = None
                self._change.notify_all()
        if made is not None:
            made.destroy()

    def expect(self, callers: int) -> None:
        """So many more callers wait, or, if negative, fewer: launch for them too."""
        with self._change:
            self.expected += callers
            if callers > 0:
                self._start_missing()

    def _start_missing(self) -> None:
        """The caller holds the lock."""
        while not self._closed and self.ready + self._launching < self.size + self.expected:
            self._start_one()

    def expected_wait_s(self, ahead: int | None = None) -> float:
        """How long another caller would wait behind `ahead` callers (default: all that are
        expected), as launches have gone lately; 0 before the first."""
        before = self.expected if ahead is None else ahead
        return max(before + 1 - self.ready, 0) * self._rate.interval_s

    def check_out(self, timeout_s: float = 60) -> S:
        """Take a ready sandbox; the caller owns it from the return on.

        Waits for the refill when none is ready. Raises GuestTimeout, or the last launch's error
        after MAX_FAILURES failures in a row.
        """
        with self._change:
            if not self._ready or self._closed:
                self.awaited += 1
                try:
                    self._wait_for_one(time.monotonic() + timeout_s)
                finally:
                    self.awaited -= 1
            return self._hand_out()

    def check_out_now(self) -> S | None:
        """Take a ready sandbox without waiting; None when none is ready."""
        with self._change:
            if not self._ready or self._closed:
                return None
            return self._hand_out()

    def holds(self, wanted: Callable[[S], bool]) -> bool:
        """Whether such a sandbox is ready."""
        with self._change:
            return any(wanted(sandbox) for sandbox in self._ready)

    def take_aside(self, wanted: Callable[[S], bool]) -> S | None:
        """The longest ready of those that are wanted, to work on it and `bring_back` or `drop` it;
        nothing is launched in its place meanwhile. None if there is none, or while callers wait."""
        with self._change:
            if not self._closed and not self.awaited:
                for sandbox in self._ready:
                    if wanted(sandbox):
                        self._ready.remove(sandbox)
                        self._out.add(sandbox)  # a drain destroys it too
                        self._launching += 1
                        return sandbox
        return None

    def bring_back(self, sandbox: S) -> None:
        """Put back what was taken aside."""
        with self._change:
            self._launching -= 1
        self.put_back(sandbox)

    def drop(self, sandbox: S) -> None:
        """Destroy what was taken aside, and launch another in its place."""
        with self._change:
            self._launching -= 1
            if self._refill:
                self._start_missing()
        self.give_back(sandbox)

    def _hand_out(self) -> S:
        """The caller holds the lock, and a sandbox is ready."""
        sandbox = self._ready.pop() if self._newest_first else self._ready.popleft()
        if self._lends:
            self._out.add(sandbox)
        if self._refill and self.ready + self._launching < self.size + self.expected:
            self._start_one()
        return sandbox

    def _has_room(self) -> bool:
        """Whether one more sandbox may be ready; the caller holds the lock."""
        return not self._closed and (not self._refill or self.ready < self._most)

    @property
    def _most(self) -> int:
        """How many sandboxes may be ready. A caller who waits is given one even if it is no longer
        expected."""
        return self.size + max(self.expected, self.awaited)

    def put_back(self, sandbox: S) -> None:
        """Return an unused sandbox: the next caller gets it. Where its place has been filled
        meanwhile, it is destroyed in the background."""
        with self._change:
            self._out.discard(sandbox)
            if self._has_room():
                self._ready.appendleft(sandbox)
                self._change.notify_all()
                return
            if not self._closed:
                self._out.add(sandbox)  # a drain destroys it if no worker does
                self._workers.submit(self.give_back, sandbox)
                return
        sandbox.destroy()

    def _wait_for_one(self, deadline: float) -> None:
        if not self._launching:
            # What failed for earlier callers, for want of memory perhaps, is tried again.
            self._failed_in_a_row = 0
        while not self._ready or self._closed:
            if self._closed:
                raise self._drained()
            if self._failed_in_a_row >= MAX_FAILURES:
                raise self._failures[-1]
            if not self._launching:
                if not self._refill:
                    raise GuestTimeout(f"the pool of {self.size} is empty and does not refill")
                self._start_one()
            left = deadline - time.monotonic()
            if left <= 0 or not self._change.wait(left):
                raise GuestTimeout(f"the pool of {self.size} had no sandbox ready in time")

    def _drained(self) -> Drained:
        return Drained(f"the pool of {self.size} was drained")

    def give_back(self, sandbox: S) -> None:
        """Destroy a sandbox that was checked out: sandboxes are never reused."""
        with self._change:
            self._out.discard(sandbox)
        sandbox.destroy()

    def drain(self) -> None:
        """Destroy every sandbox, ready or lent. The pool cannot be used afterwards.

        Raises the error of a sandbox that could not be destroyed, when the others are."""
        with self._change:
            self._closed = True
            self._change.notify_all()
        self._workers.shutdown(wait=True, cancel_futures=True)
        with self._change:
            left = [*self._ready, *self._out]
            self._ready.clear()
            self._out.clear()
        with contextlib.ExitStack() as destroyed:
            for sandbox in reversed(left):
                destroyed.callback(sandbox.destroy)

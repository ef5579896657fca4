"""The pool of a template of microVMs.

What it has made runs at first: callers who come quickly get it as it is. What no caller has claimed
for REST_S is stopped, and resumed for its caller: until then it takes no processor. So a storm pays
for no stop and no resume, and a pool at rest costs nothing.

The pool refills at once, at any rate that the processors carry. Only while a caller is being handed
a sandbox, and half the pool is ready for others, does making more wait.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator

from harness.errors import CoppiceError, DiskFull, GuestDied, NotEnoughMemory, SandboxError
from harness.gateway.fleets.microvm import MicroVm
from harness.gateway.fleets.pool_queue import PoolQueue
from harness.gateway.fleets.pooled_fleet import destroyed_in_thread
from harness.sandbox.pool import Pool

MEMORY = 96 << 20
"""Bytes of host memory that a sandbox in the pool takes, an upper estimate."""
TRIES = 3
REST_S = 1.0
LOOK_S = 0.25
"""How often sandboxes that run in the pool are looked at."""
URGENT_S = 0.5
"""The longest time for which making a sandbox waits for callers that are being served."""
log = logging.getLogger("coppice.gateway")


class TemplatePool:
    """`make` makes a sandbox that runs; it is given a function that tells whether a caller waits
    for it. `workers` of them are made at once."""

    def __init__(
        self, make: Callable[[Callable[[], bool]], MicroVm], size: int, workers: int
    ) -> None:
        self._make = make
        self._serving = 0
        self._calm = threading.Event()
        self._calm.set()
        self._made, self._closing = threading.Event(), threading.Event()
        self._pool = Pool(
            self._made_one, size, memory_each=MEMORY, lends=False, workers=workers,
            before=self._let_callers_go_first, newest_first=True,
        )  # fmt: skip
        self._queue = PoolQueue(self._pool)
        self._stopper = threading.Thread(target=self._stop_idle, name="stopper", daemon=True)
        self._stopper.start()

    @property
    def ready(self) -> int:
        return self._pool.ready

    def fill(self) -> None:
        """Wait until the pool is full."""
        self._pool.fill()

    def close(self) -> None:
        self._closing.set()
        self._made.set()
        self._stopper.join()
        try:
            self._pool.drain()
        finally:
            self._queue.close()

    async def take(self, key_id: str, timeout_s: float) -> MicroVm:
        """A sandbox that runs. Raises what `PoolQueue.take` and `MicroVm.resume_on_loop` raise."""
        with self._served():
            for _ in range(TRIES):
                vm = await self._queue.take(key_id, timeout_s)
                async with destroyed_in_thread(vm):
                    if vm.stopped:
                        await vm.resume_on_loop()
                        return vm
                    if vm.alive():
                        return vm
                    log.error("a sandbox died in the pool", extra={"fields": {"sandbox": vm.id}})
                    vm.destroy()
        raise GuestDied("the sandboxes of the pool die")

    @contextlib.contextmanager
    def _served(self) -> Iterator[None]:
        """While a caller is being handed a sandbox; on the event loop."""
        self._serving += 1
        self._calm.clear()
        try:
            yield
        finally:
            self._serving -= 1
            if not self._serving:
                self._calm.set()

    def _let_callers_go_first(self) -> bool:
        """Making a sandbox keeps a processor busy. Whether it has waited."""
        if self._pool.ready <= self._pool.size // 2 or self._wanted() or self._calm.is_set():
            return False
        self._calm.wait(URGENT_S)
        return True

    def _wanted(self) -> bool:
        """Whether a caller waits for a sandbox."""
        return self._pool.expected > self._pool.ready

    def _made_one(self) -> MicroVm:
        """A sandbox for the pool, which itself does not try again after a failure."""
        try:
            for _ in range(TRIES - 1):
                try:
                    return self._make(self._wanted)
                except (DiskFull, NotEnoughMemory):
                    raise  # the next try would find no more
                except (CoppiceError, OSError, TimeoutError) as error:
                    fields = {"why": f"{type(error).__name__}: {error}"}
                    log.error("a sandbox for the pool could not be made", extra={"fields": fields})
            return self._make(self._wanted)
        finally:
            self._made.set()

    # In a thread of its own.

    def _stop_idle(self) -> None:
        while not self._closing.is_set():
            self._made.wait()
            self._made.clear()
            while self._pool.under_way or self._pool.holds(lambda vm: not vm.stopped):
                if vm := self._pool.take_aside(_idle):
                    self._stop(vm)
                elif self._closing.wait(LOOK_S):
                    break
                if self._closing.is_set():
                    break

    def _stop(self, vm: MicroVm) -> None:
        try:
            vm.stop()
        except (SandboxError, OSError) as error:
            fields = {"sandbox": vm.id, "why": str(error)}
            log.error("a sandbox of the pool did not stop", extra={"fields": fields})
            try:
                self._pool.drop(vm)
            except (CoppiceError, OSError) as left:  # the others are looked at all the same
                fields = {"sandbox": vm.id, "why": str(left)}
                log.error("a sandbox of the pool was not destroyed", extra={"fields": fields})
        else:
            self._pool.bring_back(vm)


def _idle(vm: MicroVm) -> bool:
    return not vm.stopped and time.monotonic() - vm.made > REST_S

"""A storm on a substrate: sandboxes arrive at a rate, are used, held, asked again, and ended.

A substrate's calls block, so each life has a thread of an executor while it works; there are
threads for all lives that may be alive, and how long each waited for one is measured.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from harness.errors import (
    CoppiceError,
    LimitReached,
    NotEnoughMemory,
    Refused,
    SandboxError,
    SandboxGone,
    WrongAnswer,
)
from harness.host.identity import allocate
from harness.host.memory import available_memory, memory_floor
from harness.host.run import Run
from harness.load import generator
from harness.load.arrivals import KIND, Schedule
from harness.load.capacity import QUEUE_EVERY_S
from harness.load.generator import USABLE, Attempt, Life, Outcome
from harness.measure.record import FailureKind, Scalar
from harness.procedures.ladder import prove_own_kernel
from harness.procedures.storm_series import ALIVE_AGAIN, ASKED_AGAIN, ENDED, ENDING, THREAD
from harness.procedures.unrehearsed import Missing, Programs
from harness.sandbox.pool import Pool
from harness.sandbox.protocol import Sandbox, Sharing, Substrate, Template, Tier

THREADS = 256
"""Threads of one generator at most: a sandbox that is merely held needs none."""
TIMEOUT_S = 60.0
REFUSALS = (NotEnoughMemory, LimitReached, Refused)
"""Errors that turn a request away: the host or the pool would not start one more."""

REHEARSED = KIND
"""The kind of arrivals whose first command is the one that pools and checkpoints have run before.
Other kinds are names of programs (harness/procedures/unrehearsed.py)."""

clock = time.perf_counter


class ProgramMissing(SandboxError):
    """The sandbox does not have the program that was to run first."""


class Source:
    """Where sandboxes come from: a pool that refills itself, or one launch for each request.

    Both belong to `stack`, which ends every sandbox, also those of threads that are still at work.
    """

    def __init__(
        self,
        run: Run,
        substrate: Substrate[Template],
        template: Template,
        tier: Tier,
        stack: ExitStack,
        pool: int,
        *,
        refill: bool = True,
        forked: bool = False,
    ) -> None:
        """`pool` sandboxes are kept ready; 0: none, every request launches its own. Without
        `refill` only `ready` makes them. `forked`: each is forked from one zygote."""
        sharing: dict[str, Any] = {}
        if forked:
            template = stack.enter_context(substrate.zygote(run, template))
            tier, sharing = Tier.DURABLE_POOL, {"sharing": Sharing.FORKED}
        self._make: Callable[[], Sandbox] = lambda: substrate.launch(
            run, template, tier, allocate(run.leases, run.id), **sharing
        )
        self._each = substrate.memory_per_sandbox(tier)
        self._lock = threading.Lock()
        self._lent: set[Sandbox] = set()
        self._closed = False
        self._pool: Pool[Sandbox] | None = None
        if pool:
            self._pool = stack.enter_context(
                Pool(self._make, pool, memory_each=self._each, refill=refill)
            )
        stack.callback(self._close)

    def ready(self) -> None:
        """Fill the pool, if there is one. Raises CoppiceError."""
        if self._pool:
            self._pool.fill()

    @property
    def shortfall(self) -> int | None:
        """How many sandboxes the pool lacks; None without one."""
        # For callers that wait, a pool launches beyond its size.
        return max(0, self._pool.size - self._pool.ready) if self._pool else None

    def acquire(self) -> Sandbox:
        """A sandbox of the pool, or a new one; waits for it. Raises CoppiceError."""
        if self._pool:
            return self._pool.check_out(TIMEOUT_S)
        if self._each and available_memory() - self._each < memory_floor():
            raise NotEnoughMemory("this host has no memory for one more sandbox")
        sandbox = self._make()
        with self._lock:
            if not self._closed:
                self._lent.add(sandbox)
                return sandbox
        sandbox.destroy()
        raise SandboxGone("the storm has ended")

    def release(self, sandbox: Sandbox) -> None:
        """End a sandbox that was acquired."""
        if self._pool:
            self._pool.give_back(sandbox)
            return
        sandbox.destroy()
        with self._lock:
            self._lent.discard(sandbox)

    def _close(self) -> None:
        with self._lock:
            self._closed = True
            left = list(self._lent)
            self._lent.clear()
        for sandbox in left:
            with contextlib.suppress(CoppiceError):  # the others must end; leaks are counted
                sandbox.destroy()


def threads(count: int, stack: ExitStack) -> ThreadPoolExecutor:
    """An executor whose threads exist already: starting one takes time from its first request."""
    count = min(count, THREADS)
    executor = ThreadPoolExecutor(count, thread_name_prefix="storm")
    stack.callback(executor.shutdown, cancel_futures=True)
    barrier = threading.Barrier(count)
    for waiting in [executor.submit(barrier.wait) for _ in range(count)]:
        waiting.result()
    return executor


@dataclass
class _Work:
    """The blocking part of one life, for a thread. Moments are marked by the event loop later."""

    source: Source
    programs: Programs
    program: str
    moments: dict[str, float] = field(default_factory=dict)
    sandbox: Sandbox | None = None

    def start(self) -> None:
        """From the request to the output of the first command."""
        moments, word = self.moments, secrets.token_hex(8)
        moments[THREAD] = clock()
        self.sandbox = sandbox = self.source.acquire()
        moments["object"] = clock()
        moments["first-reply"] = sandbox.awaken(TIMEOUT_S)
        if self.program == REHEARSED:
            finished = sandbox.first_exec(word)
            returned = clock()
            if finished.code or finished.stdout != f"{word}\n".encode():
                raise WrongAnswer(f"{sandbox.id}: the first process returned {finished}")
        else:
            self._run_other(sandbox, word)
            returned = clock()
        moments[USABLE] = returned

    def _run_other(self, sandbox: Sandbox, word: str) -> None:
        sandbox.adopt_identity()  # `first_exec` does this in the message that starts its process
        try:
            self.programs.run(sandbox, self.program, word, TIMEOUT_S)
        except Missing as error:
            raise ProgramMissing(f"sandboxes of this kind have no {self.program}") from error

    def ask_again(self) -> None:
        assert self.sandbox
        self.moments[ASKED_AGAIN] = clock()
        self.moments[ALIVE_AGAIN] = self.sandbox.awaken(TIMEOUT_S)

    def prove(self) -> None:
        assert self.sandbox
        prove_own_kernel(self.sandbox)

    def end(self) -> None:
        assert self.sandbox
        self.moments[ENDING] = clock()
        self.source.release(self.sandbox)
        self.moments[ENDED] = clock()


@dataclass(frozen=True)
class Lives:
    """Makes lives for the generator. With `hold`, each sandbox stays until every arrival is usable
    or has failed, and is then asked a second time; else it stays for its lifetime."""

    source: Source
    executor: ThreadPoolExecutor
    programs: Programs
    own_kernel: bool
    hold: bool = False

    async def __call__(self, attempt: Attempt) -> None:
        work = _Work(self.source, self.programs, attempt.arrival.kind)
        try:
            await self._in_thread(attempt, work, work.start)
            if self.hold:
                await attempt.all_settled()
                await self._in_thread(attempt, work, work.ask_again)
            elif attempt.arrival.lifetime_s:
                await asyncio.sleep(attempt.arrival.lifetime_s)
            if self.own_kernel:
                await self._prove(attempt, work)
        except asyncio.CancelledError:
            raise  # the source ends its sandboxes, whatever their threads do
        except Exception:
            attempt.settle(clock())  # before its end, which takes its time
            await self._end(attempt, work)
            raise
        await self._end(attempt, work)

    async def _prove(self, attempt: Attempt, work: _Work) -> None:
        try:
            await self._in_thread(attempt, work, work.prove)
        except CoppiceError:
            attempt.marks.clear()  # none of its figures is that of a sandbox with its own kernel
            work.moments.clear()
            raise

    async def _end(self, attempt: Attempt, work: _Work) -> None:
        if work.sandbox:
            await self._in_thread(attempt, work, work.end)

    async def _in_thread(self, attempt: Attempt, work: _Work, step: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self.executor, step)
        finally:
            # Here, since only the event loop's thread may count what is settled.
            for name, moment in list(work.moments.items()):
                if name not in attempt.marks:
                    attempt.mark(name, moment)


async def run(
    schedule: Schedule, lives: Life, source: Source, limit: int
) -> tuple[Outcome, Sequence[float]]:
    """A storm, and how many sandboxes its pool, if it has one, lacked every 100 ms until the last
    request was due."""
    shortfalls: list[float] = []
    start = clock() + generator.SOON_S
    watching = asyncio.create_task(_watch(source, shortfalls, start, schedule.duration_s))
    try:
        outcome = await generator.run(schedule, lives, limit=limit, start=start, kind_of=kind_of)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    return outcome, shortfalls


async def _watch(source: Source, into: list[float], start: float, seconds: float) -> None:
    await asyncio.sleep(start - clock())
    while (lacking := source.shortfall) is not None and clock() <= start + seconds:
        into.append(float(lacking))
        await asyncio.sleep(QUEUE_EVERY_S)


def kind_of(error: Exception) -> FailureKind | None:
    """Refused, missing, or (None) failed."""
    if isinstance(error, ProgramMissing):
        return "missing"
    return "refused" if isinstance(error, REFUSALS) else None


def of_kind(kind: str) -> Mapping[str, Scalar]:
    """The dimensions of arrivals of a kind."""
    return {} if kind == REHEARSED else {"program": kind, "rehearsed": "no"}


@dataclass(frozen=True)
class AtOnce:
    """Lives that begin on the event loop itself, for sandboxes that never block (`noop`), and are
    not ended: what remains is the generator's own work."""

    source: Source

    async def __call__(self, attempt: Attempt) -> None:
        work = _Work(self.source, Programs(None), attempt.arrival.kind)
        work.start()
        del work.moments[THREAD]
        for name, moment in work.moments.items():
            attempt.mark(name, moment)

"""A storm over an E2B API: sandboxes that arrive at a rate, run a command, are held and deleted.

It is carried out by one generator in this process, or by several (harness/load/generators.py),
which import it from here. Every clock stops on something that only a process inside can have
computed, but for the fleet `noop`, which has no processes and echoes.

Sandboxes carry the name of their generator's part, so that those of one that was lost are found.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import heapq
import math
import secrets
import time
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from harness.endpoints import challenge, clearing
from harness.endpoints import journal as journals
from harness.endpoints.challenge import Challenge
from harness.endpoints.client import ApiClient, Created, Journal, NoJournal, opened
from harness.endpoints.settings import Endpoint
from harness.errors import CoppiceError, NotOffered, Refused, UsageError
from harness.load import generator
from harness.load.arrivals import KIND, Schedule
from harness.load.fan_out import Together
from harness.load.generator import USABLE, Attempt, Outcome, clock
from harness.measure.record import FailureKind
from harness.procedures.storm_series import ALIVE_AGAIN, ASKED_AGAIN, ENDED, ENDING

WARM = 16
"""Connections that a generator has open at the start."""
AT_ONCE = 32
"""Second questions, and deletions, that one generator has under way at once after a hold: they
answer whether sandboxes live and go, not how a service bears thousands of requests at one moment.
"""
ROUNDING_S = 1e-6
"""Arrivals exactly a second apart are not in the same second, whatever the last digit says."""
ALL_THERE = "all sandboxes are there"
LIFE_S, LONGEST_LIFE_S = 300.0, 3600.0
"""How long a sandbox may outlive its part, and at most: then the service ends it by itself."""
PATIENCE_S = 5.0
"""For how long a sandbox may still be listed after its deletion was answered."""


@dataclass(frozen=True)
class EndpointStorm:
    """What the generators of a storm must know. Work for them (`harness.load.fan_out.Work`).

    `paths` are the programs by name that arrivals may ask for as their kinds. With `hold`, each
    sandbox stays until those of all generators are there; else for its lifetime. `limit` is the
    most that one generator keeps alive. `echoes`: the service is our noop fleet. `foreign`: it is
    not ours, so that what is made there is noted in a journal.
    """

    endpoint: Endpoint
    run_id: str
    paths: Mapping[str, str]
    limit: int
    life_s: float = LIFE_S
    hold: bool = False
    echoes: bool = False
    foreign: bool = False

    async def __call__(self, part: Schedule, together: Together) -> Outcome:
        """Carry out a part of the storm."""
        with self._journal(together.number) as journal:
            async with opened(self.endpoint, journal) as client:
                await client.warm(WARM)
                lives = _Lives(self, client, together)
                start = await together.start()
                return await generator.run(
                    part, lives, limit=self.limit, start=start, kind_of=kind_of
                )

    def part_id(self, number: int) -> str:
        """The run that the sandboxes of generator `number`, from 0, carry."""
        return f"{self.run_id}.{number + 1}"

    @contextlib.contextmanager
    def _journal(self, number: int) -> Iterator[Journal]:
        if not self.foreign:
            yield NoJournal(self.part_id(number))
            return
        with journals.opened(self.endpoint, self.part_id(number)) as journal:
            yield journal
            noted = journal.entries()
            if not noted.alive and not noted.lost:
                journal.drop()

    def asked(self, kind: str) -> Challenge:
        """A new challenge for an arrival of this kind."""
        name = challenge.COMMAND if kind == KIND else kind
        if self.echoes:
            word = secrets.token_hex(8)
            argv = ("/bin/bash", "-l", "-c") if name == challenge.COMMAND else ("/bin/sh", "-c")
            return Challenge((*argv, f"echo {word}"), word)
        return challenge.challenge(name, self.paths.get(name))


class _Lives:
    """The lives of one generator (`harness.load.generator.Life`)."""

    def __init__(self, storm: EndpointStorm, client: ApiClient, together: Together) -> None:
        self._storm, self._client, self._together = storm, client, together
        self._body = {"timeout": math.ceil(min(storm.life_s, LONGEST_LIFE_S))}
        # Without a hold they come as the arrivals did: what is slow must not slow them down.
        self._room = asyncio.Semaphore(AT_ONCE) if storm.hold else contextlib.nullcontext()

    async def __call__(self, attempt: Attempt) -> None:
        created: Created | None = None
        try:
            created = await self._client.create(self._body)
            attempt.mark("create-headers", created.headers)
            attempt.mark("create-body", created.body)
            asked = self._storm.asked(attempt.arrival.kind)
            ran = await self._client.run(created, asked.argv)
            asked.check(ran)
            attempt.mark(USABLE, ran.end)
            await self._keep(attempt, created)
        except asyncio.CancelledError:
            raise  # the storm is stopped: what is left is deleted afterwards, all at once
        except Exception as error:
            attempt.settle(clock())  # before the deletion, which takes its time
            if created:
                with contextlib.suppress(CoppiceError):  # counted as leaked, and deleted then
                    await self._end(attempt, created)
            if isinstance(error, Refused):
                raise _with_retry_after(error) from error
            raise
        await self._end(attempt, created)

    async def _keep(self, attempt: Attempt, created: Created) -> None:
        """Hold it, and ask it again before it ends."""
        if self._storm.hold:
            await attempt.all_settled()
            await self._together(ALL_THERE)
        elif attempt.arrival.lifetime_s:
            await asyncio.sleep(attempt.arrival.lifetime_s)
        else:
            return
        async with self._room:
            attempt.mark(ASKED_AGAIN)
            again = self._storm.asked(attempt.arrival.kind)
            ran = await self._client.run(created, again.argv)
            again.check(ran)
            attempt.mark(ALIVE_AGAIN, ran.end)

    async def _end(self, attempt: Attempt, created: Created) -> None:
        async with self._room:
            attempt.mark(ENDING)
            await clearing.delete(self._client, created.id)
            attempt.mark(ENDED)


def _with_retry_after(error: Refused) -> Refused:
    """The same refusal, which says whether the service named a time."""
    asks = "no Retry-After" if error.retry_after is None else f"Retry-After {error.retry_after:g} s"
    return Refused(f"{error.args[0]} ({asks})", error.retry_after)


def kind_of(error: Exception) -> FailureKind | None:
    """A refusal, an operation that the service does not have, or (None) a failure."""
    if isinstance(error, Refused):
        return "refused"
    return "not-offered" if isinstance(error, NotOffered) else None


def most_in_a_second(schedule: Schedule) -> int:
    """The most arrivals within any second."""
    within: deque[float] = deque()
    most = 0
    for entry in schedule.entries:
        within.append(entry.at_s)
        while within[0] <= entry.at_s - 1 + ROUNDING_S:
            within.popleft()
        most = max(most, len(within))
    return most


def most_kept(schedule: Schedule) -> int:
    """The most sandboxes that the lifetimes of a schedule keep at once, if all start at once."""
    ends: list[float] = []
    most = 0
    for entry in schedule.entries:
        while ends and ends[0] <= entry.at_s + ROUNDING_S:
            heapq.heappop(ends)
        heapq.heappush(ends, entry.at_s + entry.lifetime_s)
        most = max(most, len(ends))
    return most


def share(endpoint: Endpoint, parts: Sequence[Schedule], *, hold: bool = False) -> int | None:
    """How many sandboxes each generator may keep at once; None without limits.

    Raises UsageError where the plan does not keep to the limits of its service: a request that
    waits for a limit would be one of another schedule.
    """
    limits = endpoint.limits
    if limits is None:
        return None
    most = sum(map(most_in_a_second, parts))
    if most > limits.most_per_second:
        raise UsageError(
            f"this storm makes up to {most} sandboxes in a second, and "
            f"{limits.most_per_second:g} are allowed at {endpoint.name}",
            hint=f"allow more with --most-per-second {most}, or offer a lower --rate",
        )
    kept = sum(len(part) if hold else most_kept(part) for part in parts)
    if kept > limits.most_sandboxes:
        raise UsageError(
            f"this storm keeps {kept} sandboxes at once, and {limits.most_sandboxes} are allowed "
            f"at {endpoint.name}",
            hint=f"allow more with --most-sandboxes {kept}, or keep fewer",
        )
    return limits.most_sandboxes // len(parts)


def within_limits(storm: EndpointStorm, parts: Sequence[Schedule]) -> EndpointStorm:
    """The storm with the limits of its service shared among the generators. UsageError."""
    limits, each = storm.endpoint.limits, share(storm.endpoint, parts, hold=storm.hold)
    if limits is None or each is None:
        return storm
    own = dataclasses.replace(limits, most_sandboxes=each)
    return dataclasses.replace(
        storm,
        endpoint=dataclasses.replace(storm.endpoint, limits=own),
        limit=min(storm.limit, each),
    )


@dataclass(frozen=True)
class Left:
    """Sandboxes that were there after a storm: `leaked` had been deleted or never acknowledged,
    `of_lost` were those of generators that were lost. `unknown`: why this is not known,
    which may be that the service has no list (`not_offered`)."""

    leaked: int = 0
    of_lost: int = 0
    unknown: str | None = None
    not_offered: bool = False


async def clear(storm: EndpointStorm, generators: int, lost: Collection[int] = ()) -> Left:
    """Count what the service still lists of a storm, and delete it."""
    counted = {True: 0, False: 0}
    async with opened(storm.endpoint, run_id=storm.run_id) as client:
        for number in range(generators):
            run_id = storm.part_id(number)
            try:
                listed = await _listed(client, run_id, wait=number not in lost)
            except CoppiceError as error:  # the storm is measured, whatever the list does
                missing = isinstance(error, NotOffered)
                return Left(unknown=str(error.args[0]), not_offered=missing)
            counted[number in lost] += len(listed)
            room = asyncio.Semaphore(AT_ONCE)
            await asyncio.gather(*(_delete(client, id, room) for id in listed))
    return Left(counted[False], counted[True])


async def _listed(client: ApiClient, run_id: str, *, wait: bool) -> Sequence[str]:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        found = [one.id for one in await client.listed(run_id)]
        if not found or not wait or time.monotonic() > deadline:
            return found
        await asyncio.sleep(0.2)


async def _delete(client: ApiClient, id: str, room: asyncio.Semaphore) -> None:
    async with room:
        with contextlib.suppress(CoppiceError):  # the session tries again, and names it
            await clearing.delete(client, id)

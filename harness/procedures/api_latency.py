"""Closed loops over an E2B API: sandboxes that are created, asked for one thing, and deleted.

So many workers, each with one request at a time, make sandboxes; a sandbox gets at most one further
request, so that this is its first. Sandboxes are deleted after a batch of them: deletions do not
load the service while others are being created. Every clock stops on something that only a process
inside can have computed (harness/endpoints/challenge.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.endpoints import challenge, clearing
from harness.endpoints.client import ApiClient, Created
from harness.endpoints.static_program import CODE
from harness.errors import (
    CoppiceError,
    EndpointFailed,
    EndpointUnreachable,
    KeyRefused,
    LimitReached,
    NotOffered,
    Refused,
    SandboxError,
    TemplateMissing,
)
from harness.measure.collector import Collector
from harness.measure.record import Facts, FailureKind

CREATE, COMMAND, CODE_CELL = "create", "command", "code"
KINDS = (CREATE, COMMAND, CODE_CELL)
UPLOADED = "uploaded"
"""The program that is made for one sandbox and uploaded into it."""
PROGRAMS = ("sh", "ls", "python3", "node", UPLOADED)
METRICS: Mapping[str, Sequence[str]] = {
    CREATE: ("create-headers", "create-body"),
    COMMAND: ("first-command", "first-command-alone", "usable"),
    CODE_CELL: ("first-run-code", "first-run-code-alone"),
    **dict.fromkeys(PROGRAMS, ("first-program", "first-program-alone")),
}
FATAL = (EndpointUnreachable, KeyRefused, TemplateMissing, LimitReached)
"""What makes every further attempt fail as well."""
REFUSED_S, LONGEST_S = 1.0, 30.0
"""Rest of a worker whose creation was refused, unless the service names another; and at most."""
REFUSALS = 5
"""In succession: then a step asks for nothing more."""
STOPS: Mapping[str, str] = {
    "create-headers": "the response's headers (HTTP), the return of create (SDK)",
    "create-body": "the response's body is complete",
    "first-command": "the end of the first command's stream",
    "first-command-alone": "the same",
    "usable": "the same as first-command: the sandbox has run a command",
    "first-run-code": "the end of the first cell's stream",
    "first-run-code-alone": "the same",
    "first-program": "the end of the stream of a command that no rehearsal has run",
    "first-program-alone": "the same",
}


@dataclass(frozen=True)
class Inside:
    """What a sandbox of the service has: the machine's name, programs by path, and which of
    commands and cells are offered at all, with what was answered otherwise."""

    machine: str = ""
    paths: Mapping[str, str] = field(default_factory=dict)
    not_offered: Mapping[str, str] = field(default_factory=dict)

    def lacks(self, kind: str) -> str | None:
        """Why something cannot be asked for; None if it can."""
        if kind in self.not_offered:
            return self.not_offered[kind]
        if kind in (CREATE, COMMAND, CODE_CELL):
            return None
        if COMMAND in self.not_offered:
            return self.not_offered[COMMAND]
        if kind == UPLOADED:
            known = self.machine in CODE
            return None if known else f"no program is made here for {self.machine or 'its machine'}"
        return None if kind in self.paths else f"`command -v {kind}` finds nothing in the sandbox"


@dataclass(frozen=True)
class Taken:
    """What one sandbox gave: seconds by metric, or why it has none for those that lack."""

    seconds: Mapping[str, float]
    failure: str | None = None
    kind: FailureKind | None = None


async def explored(client: ApiClient) -> Inside:
    """What a sandbox has, found in one that is made for it. It warms the client up, too."""
    created = await _created(client)
    found = "uname -m; for one in sh ls python3 node; do command -v $one; done; true"
    lines: Sequence[str] = ()
    not_offered: dict[str, str] = {}
    try:
        try:
            lines = (await client.run(created, ("/bin/sh", "-c", found))).stdout.splitlines()
        except NotOffered as error:
            not_offered[COMMAND] = str(error.args[0])
        except (EndpointFailed, SandboxError):
            pass  # the measured attempts will fail as well, and say so
        try:
            await client.run_code(created, challenge.cell()[0])
        except NotOffered as error:
            not_offered[CODE_CELL] = str(error.args[0])
        except (EndpointFailed, SandboxError):
            pass
    finally:
        await clearing.delete(client, created.id)
    paths = {line.rpartition("/")[2]: line for line in lines if line.startswith("/")}
    machine = next((line for line in lines if line in CODE), "")
    return Inside(machine, paths, not_offered)


async def _created(client: ApiClient) -> Created:
    """A sandbox, after some waiting if the service sheds load. Raises Refused if it goes on."""
    for _ in range(REFUSALS - 1):
        try:
            return await client.create()
        except Refused as error:
            if (error.retry_after or 0) > LONGEST_S:
                raise
            await asyncio.sleep(_rest_s(error))
    return await client.create()


def _rest_s(error: Refused) -> float:
    return min(REFUSED_S if error.retry_after is None else error.retry_after, LONGEST_S)


async def _command(client: ApiClient, created: Created) -> Mapping[str, float]:
    asked = challenge.challenge(challenge.COMMAND)
    ran = await client.run(created, asked.argv)
    asked.check(ran)
    whole = ran.end - created.start
    return {"first-command": whole, "first-command-alone": ran.end - ran.start, "usable": whole}


async def _cell(client: ApiClient, created: Created) -> Mapping[str, float]:
    code, expected = challenge.cell()
    cell = await client.run_code(created, code)
    challenge.check_cell(expected, cell)
    return {"first-run-code": cell.end - created.start,
            "first-run-code-alone": cell.end - cell.start}  # fmt: skip


async def _program(
    client: ApiClient, created: Created, name: str, inside: Inside
) -> Mapping[str, float]:
    if name == UPLOADED:
        file = challenge.upload(inside.machine)
        await client.upload(created, file.path, file.content)
        asked = file.challenge
    else:
        asked = challenge.challenge(name, inside.paths.get(name))
    ran = await client.run(created, asked.argv)
    asked.check(ran)
    return {"first-program": ran.end - created.start, "first-program-alone": ran.end - ran.start}


async def attempted(client: ApiClient, kind: str, inside: Inside) -> Taken:
    """Create a sandbox and ask it for one thing. Raises what makes all attempts fail."""
    seconds: dict[str, float] = {}
    try:
        created = await client.create()
        seconds["create-headers"] = created.headers - created.start
        seconds["create-body"] = created.body - created.start
        if kind == COMMAND:
            seconds |= await _command(client, created)
        elif kind == CODE_CELL:
            seconds |= await _cell(client, created)
        elif kind != CREATE:
            seconds |= await _program(client, created, kind, inside)
    except FATAL:
        raise
    except Refused as error:
        await asyncio.sleep(_rest_s(error))
        return Taken(seconds, _reason(error), "refused")
    except NotOffered as error:
        return Taken(seconds, _reason(error), "not-offered")
    except (EndpointFailed, SandboxError) as error:
        return Taken(seconds, _reason(error))
    return Taken(seconds)


def _reason(error: CoppiceError) -> str:
    return f"{type(error).__name__}: {error.args[0]}"[:400]


async def batch(
    client: ApiClient, attempt: Callable[[], Awaitable[Taken]], count: int, concurrency: int
) -> Sequence[Taken]:
    """`count` attempts by so many workers, and then the deletion of what they made."""
    taken: list[Taken] = []
    turns: Iterator[int] = iter(range(count))

    async def work() -> None:
        for _ in turns:
            taken.append(await attempt())
            if len(taken) >= REFUSALS and all(one.kind == "refused" for one in taken[-REFUSALS:]):
                return

    await _together([work() for _ in range(min(concurrency, count))])
    room = asyncio.Semaphore(clearing.AT_ONCE)
    await _together([_delete(client, id, room) for id in list(client.alive)])
    return taken


def doubts(client: ApiClient) -> Sequence[str]:
    """Why the creations of a client may be less than they seem: nothing ran in some of them, so
    that only their deletions show whether there was anything."""
    if not client.absent:
        return []
    return [
        f"{client.absent} sandboxes that {client.endpoint.name} said it had made were not there "
        "when they were to be deleted"
    ]


async def _delete(client: ApiClient, id: str, room: asyncio.Semaphore) -> None:
    async with room:
        await clearing.delete(client, id)


async def _together(works: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run all to their ends; the first error ends the others, and is raised as it is."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def collect(
    into: Collector, kind: str, taken: Sequence[Taken], dimensions: Facts, *, mixed: bool
) -> None:
    """Add what a batch gave. `mixed`: some sandboxes had run something already while others were
    created, so that creations of another kind than `create` are not the plain ones."""
    metrics = METRICS[kind]
    if kind in (COMMAND, CODE_CELL) and not mixed:
        metrics = (*METRICS[CREATE], *metrics)
    for one in taken:
        for metric in metrics:
            if metric in one.seconds:
                into.add(metric, "s", [one.seconds[metric]], **dimensions)
            elif one.failure:
                into.fail(metric, "s", one.failure, "lower", one.kind, **dimensions)


@dataclass(frozen=True)
class Step:
    """So many attempts of one kind, by so many workers."""

    kind: str
    count: int
    concurrency: int


class Loops:
    """The closed loops of one client. `most` sandboxes exist at once; `before` is called before
    each batch, and may wait."""

    def __init__(
        self,
        client: ApiClient,
        inside: Inside,
        into: Collector,
        most: int,
        before: Callable[[], object] = lambda: None,
    ) -> None:
        self._client = client
        self._inside = inside
        self._into = into
        self._most = most
        self._before = before

    async def measure(self, step: Step, dimensions: Facts) -> None:
        """One step, in batches, into the series with these dimensions."""
        by: Facts = {**dimensions, "concurrency": step.concurrency}
        mixed = step.concurrency > 1
        if why := self._inside.lacks(step.kind):
            for metric in METRICS[step.kind]:
                self._into.fail(metric, "s", why, "lower", "not-offered", **by)
            return
        at_once = max(self._most // step.concurrency, 1) * step.concurrency
        for done in range(0, step.count, at_once):
            await self._ready(step.concurrency)
            wanted = min(at_once, step.count - done)
            taken = await batch(
                self._client,
                lambda: attempted(self._client, step.kind, self._inside),
                wanted,
                step.concurrency,
            )
            collect(self._into, step.kind, taken, by, mixed=mixed)
            if len(taken) < wanted:  # the service takes no more
                break

    async def measure_programs(self, names: Sequence[str], dimensions: Facts) -> None:
        """First commands that no rehearsal has run, each in a sandbox of its own, one by one."""
        for number, name in enumerate(names):
            by: Facts = {**dimensions, "concurrency": 1, "program": name}
            if why := self._inside.lacks(name):
                if name not in names[:number]:
                    for metric in METRICS[name]:
                        self._into.fail(metric, "s", why, "lower", "not-offered", **by)
                continue
            if number % self._most == 0:
                await self._ready(1)
            attempt = attempted(self._client, name, self._inside)
            taken = await batch(self._client, _once(attempt), 1, 1)
            collect(self._into, name, taken, by, mixed=True)

    async def _ready(self, concurrency: int) -> None:
        self._before()
        await self._client.warm(concurrency)


def _once(attempt: Awaitable[Taken]) -> Callable[[], Awaitable[Taken]]:
    return lambda: attempt

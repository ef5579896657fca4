"""Deletes what runs have made at a service, and says what could not be deleted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar

from harness.endpoints import journal as journals
from harness.endpoints.address import split
from harness.endpoints.client import ApiClient, opened
from harness.endpoints.journal import Entries
from harness.endpoints.settings import Endpoint
from harness.errors import (
    CoppiceError,
    EndpointUnreachable,
    GuestTimeout,
    KeyRefused,
    NotOffered,
    Refused,
)

T = TypeVar("T")
AT_ONCE = 8
PATIENCE_S = 10.0
"""For how long a sandbox may still appear that was asked for without an answer, or still be listed
after its deletion."""
TRIES = 4
LONGEST_WAIT_S = 15.0
OVER_S = 60.0
"""For how long a sandbox may exist beyond its time: clocks differ, and services are slow."""


@dataclass
class Cleared:
    """`absent` are the sandboxes that the service did not have any more, `left` those that could
    not be deleted, with the reason; `notes` say what else may be left. `unlisted`: how many were
    found by their metadata alone. `unknown`: the service did not tell what is left."""

    deleted: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    unlisted: int = 0
    unknown: bool = False

    def add(self, other: Cleared) -> None:
        """Add what was deleted of another run."""
        self.deleted += other.deleted
        self.absent += other.absent


async def clear(endpoint: Endpoint, entries: Entries) -> Cleared:
    """Delete what a journal names, and what the service lists of its run."""
    result = Cleared()
    if entries.empty:
        return result
    async with opened(endpoint, run_id=entries.run_id) as client:
        await _delete(client, entries.alive, result)
        try:
            await _settle(client, entries, result)
        except NotOffered as error:
            result.unknown = bool(entries.damaged)
            result.notes += _not_listed(endpoint, entries, str(error.args[0]))
        except CoppiceError as error:
            result.unknown = True
            result.notes.append(f"what is left at {endpoint.name} is not known: {error.args[0]}")
            result.notes += _not_listed(endpoint, entries, "") if entries.lost else []
    if entries.damaged:
        result.notes.append(
            f"the journal of run {entries.run_id} is damaged ({entries.path}): what it does not "
            f"name is known only as far as {endpoint.name} lists it"
        )
    _doubt_other_key(endpoint, entries, result)
    return result


def of_other_key(endpoint: Endpoint, entries: Entries) -> bool:
    """Whether another key has made what a journal names: of that, the service may say to this key
    that it has no such sandboxes."""
    return entries.key_mark not in ("", journals.mark(endpoint.key))


def _doubt_other_key(endpoint: Endpoint, entries: Entries, result: Cleared) -> None:
    """What this key does not see is not gone if another key has made it."""
    unseen = len(result.absent) + max(entries.lost - result.unlisted, 0)
    if of_other_key(endpoint, entries) and (unseen or entries.damaged):
        result.unknown = True
        result.absent.clear()
        result.notes.append(
            f"another key has made what run {entries.run_id} has left at {endpoint.name}, and "
            f"{unseen} sandboxes of it are not to be seen with this key"
        )


async def _settle(client: ApiClient, entries: Entries, result: Cleared) -> None:
    """Delete what is listed, until nothing is, or until what is listed does not change."""
    deadline = time.monotonic() + PATIENCE_S
    pause_s = 0.05
    found: set[str] = set()
    while True:
        listed = [one.id for one in await _patiently(lambda: client.listed(entries.run_id))]
        found |= {id for id in listed if id not in entries.alive}
        if new := [id for id in listed if id not in known(result)]:
            await _delete(client, new, result)
        again = [id for id in listed if id in (*result.deleted, *result.absent)]
        if (not listed and len(found) >= entries.lost) or time.monotonic() > deadline:
            break
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, 2.0)
    for id in again if listed else ():
        (result.deleted if id in result.deleted else result.absent).remove(id)
        result.left[id] = "its deletion was answered, and it is listed still"
    result.unlisted = len(found)
    if len(found) < entries.lost:
        result.notes += _not_listed(client.endpoint, entries, "", len(found))


def known(result: Cleared) -> Collection[str]:
    """The sandboxes whose deletion was tried."""
    return {*result.deleted, *result.absent, *result.left}


def _not_listed(endpoint: Endpoint, entries: Entries, why: str, found: int = 0) -> Sequence[str]:
    """What to say of creations that had no valid answer, and whose sandboxes are not to be seen."""
    lost = entries.lost - found
    if lost <= 0:
        return []
    at = datetime.fromtimestamp(entries.until, UTC)
    cannot = f" (it offers no list: {why})" if why else ""
    return [
        f"{lost} creations at {endpoint.name} had no valid answer, and no sandbox of them is to be "
        f"seen{cannot}: if there is one, its own timeout ends it by {at:%Y-%m-%d %H:%M:%S} UTC"
    ]


async def _delete(client: ApiClient, ids: Sequence[str], result: Cleared) -> None:
    """Delete several at once. Where the service does not answer at all, the others are not tried:
    each would take as long."""
    room = asyncio.Semaphore(AT_ONCE)
    silent: list[str] = []

    async def one(id: str) -> None:
        async with room:
            if silent:
                result.left[id] = silent[0]
                return
            try:
                there = await delete(client, id)
                (result.deleted if there else result.absent).append(id)
            except CoppiceError as error:
                result.left[id] = str(error.args[0])
                if isinstance(error, EndpointUnreachable | GuestTimeout | KeyRefused):
                    silent.append(str(error.args[0]))

    await asyncio.gather(*map(one, ids))


async def delete(client: ApiClient, id: str) -> bool:
    """Delete a sandbox, in several attempts if the service sheds load. False: it was gone."""
    return await _patiently(lambda: client.delete(id))


async def _patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """The answer, in several attempts if the service sheds load. Raises Refused if it goes on."""
    for number in range(TRIES - 1):
        try:
            return await ask()
        except Refused as error:
            wait_s = 0.5 * 2**number if error.retry_after is None else error.retry_after
            await asyncio.sleep(min(wait_s, LONGEST_WAIT_S))
    return await ask()


def command(endpoint: Endpoint) -> str:
    """The command that tries again to delete what is left."""
    if endpoint.name != split(endpoint.address)[0].authority:
        return f"coppice clean --endpoint {endpoint.name}"
    return f"coppice clean --endpoint {endpoint.address} --api-key-env {endpoint.key_variable}"


def lines(endpoint: Endpoint, result: Cleared) -> Sequence[str]:
    """What the user must know of a clearing that left something; nothing if it left nothing."""
    found = list(result.notes)
    if result.left:
        found += [f"not deleted at {endpoint.name}: {id}: {why}" for id, why in result.left.items()]
    if result.left or result.unknown:
        found.append(f"  to try again: {command(endpoint)}")
    return found


def finished(entries: Entries, result: Cleared) -> bool:
    """Whether nothing is left of a run that a command could delete. What is not known to be gone
    has ended by itself after its time."""
    over = time.time() > entries.until + OVER_S
    return not result.left and (over or not result.unknown)

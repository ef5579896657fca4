"""Deletes what runs have made at a service, and says what could not be deleted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
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


@dataclass
class Cleared:
    """`left` are the sandboxes that could not be deleted, with the reason; `notes` say what else
    may be left. `unlisted`: how many were found by their metadata alone. `unknown`: the service did
    not tell what is left."""

    deleted: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    unlisted: int = 0
    unknown: bool = False


async def clear(endpoint: Endpoint, entries: Entries) -> Cleared:
    """Delete what a journal names, and what the service lists of its run."""
    result = Cleared()
    if not entries.made and not entries.lost:
        return result
    async with opened(endpoint, run_id=entries.run_id) as client:
        await _delete(client, entries.alive, result)
        try:
            await _settle(client, entries, result)
        except NotOffered as error:
            result.notes += _not_listed(endpoint, entries, str(error.args[0]))
        except CoppiceError as error:
            result.unknown = True
            result.notes.append(f"what is left at {endpoint.name} is not known: {error.args[0]}")
            result.notes += _not_listed(endpoint, entries, "") if entries.lost else []
    return result


async def _settle(client: ApiClient, entries: Entries, result: Cleared) -> None:
    """Delete what is listed, until nothing is, or until what is listed does not change."""
    deadline = time.monotonic() + PATIENCE_S
    pause_s = 0.2
    found: set[str] = set()
    while True:
        listed = [one.id for one in await _patiently(lambda: client.listed(entries.run_id))]
        found |= {id for id in listed if id not in entries.alive}
        if new := [id for id in listed if id not in result.deleted and id not in result.left]:
            await _delete(client, new, result)
        again = [id for id in listed if id in result.deleted]
        if (not listed and len(found) >= entries.lost) or time.monotonic() > deadline:
            break
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, 2.0)
    for id in again if listed else ():
        result.deleted.remove(id)
        result.left[id] = "its deletion was answered, and it is listed still"
    result.unlisted = len(found)
    if len(found) < entries.lost:
        result.notes += _not_listed(client.endpoint, entries, "", len(found))


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
                await delete(client, id)
                result.deleted.append(id)
            except CoppiceError as error:
                result.left[id] = str(error.args[0])
                if isinstance(error, EndpointUnreachable | GuestTimeout | KeyRefused):
                    silent.append(str(error.args[0]))

    await asyncio.gather(*map(one, ids))


async def delete(client: ApiClient, id: str) -> None:
    """Delete a sandbox, in several attempts if the service sheds load."""
    await _patiently(lambda: client.delete(id))


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
        found.append(f"  to try again: {command(endpoint)}")
    return found


def finish(entries: Entries, result: Cleared) -> None:
    """Remove the journal of a run of which nothing is left that a command could delete."""
    if not result.left and not result.unknown:
        journals.drop(entries.path)

"""Changes of several callers in one transaction of the gateway's database."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.gateway.sandboxes.database import Database, Put, Removal
from harness.gateway.sandboxes.group_commit import GroupCommit


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(tmp_path / "gateway.db")
    yield opened
    opened.close()


def fact(name: str, value: object = "x") -> Put:
    return Put("facts", (name, value))


def names(database: Database) -> list[str]:
    return sorted(row[1] for row in database.rows("facts"))


def transactions(database: Database) -> list[str]:
    """The statements that begin one, from now on."""
    begun: list[str] = []

    def see(statement: str) -> None:
        if statement.startswith("begin"):
            begun.append(statement)

    database._connection.set_trace_callback(see)
    return begun


def test_changes_made_at_the_same_time_are_one_transaction(database: Database) -> None:
    async def run() -> None:
        group = GroupCommit(database)
        await group.add(fact("first"))
        begun = transactions(database)
        added = [group.add(fact(f"{number:02}")) for number in range(20)]
        await asyncio.gather(*added, group.add(Removal("facts", "first")))
        assert len(begun) == 1

    asyncio.run(run())
    assert names(database) == [f"{number:02}" for number in range(20)]


def test_what_is_wrong_with_a_change_is_told_to_its_caller_only(database: Database) -> None:
    async def run() -> list[BaseException | None]:
        group = GroupCommit(database)
        changes = fact("good"), fact("bad", object()), fact("better")
        return await asyncio.gather(*map(group.add, changes), return_exceptions=True)

    good, bad, better = asyncio.run(run())
    assert good is better is None
    assert isinstance(bad, Exception)
    assert names(database) == ["better", "good"]


def test_a_change_is_made_though_its_caller_is_cancelled(database: Database) -> None:
    async def run() -> None:
        group = GroupCommit(database)
        caller = asyncio.create_task(group.add(fact("made")))
        await asyncio.sleep(0)
        caller.cancel()
        await group.add(fact("next"))
        assert caller.cancelled()

    asyncio.run(run())
    assert names(database) == ["made", "next"]


def test_what_waits_can_be_made_at_once(database: Database) -> None:
    async def run() -> None:
        group = GroupCommit(database)
        waiting = asyncio.create_task(group.add(fact("waiting")))
        await asyncio.sleep(0)
        group.commit()
        assert names(database) == ["waiting"]
        await waiting

    asyncio.run(run())

"""Changes of state that hang, fail or lose their caller, with a fleet that does as it is told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.errors import DiskFull, GuestDied, GuestTimeout
from harness.gateway.errors import ApiError
from harness.gateway.fleets.noop import NoopSandbox
from harness.gateway.sandboxes import forks, workers
from harness.gateway.sandboxes.database import Database, Put, Removal
from harness.gateway.sandboxes.snapshots import Snapshots
from harness.gateway.sandboxes.store import FILE, Store
from tests.gateway.obedient_fleet import BASE, LIMIT_S, Own


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / FILE)
    yield store
    store.close()


Test = Callable[[Own], Awaitable[None]]


@pytest.fixture
def play(tmp_path: Path, store: Store) -> Callable[[Test], None]:
    """Runs a test with an open gateway."""

    def play(test: Test) -> None:
        async def run() -> None:
            own = Own(tmp_path, store)
            await own.sandboxes.open()
            try:
                await asyncio.wait_for(test(own), LIMIT_S)
            finally:
                own.fleet.go_on.set()
                await own.sandboxes.close()

        asyncio.run(run())

    return play


@pytest.mark.parametrize("whose", ["own", "other"])
def test_guests_that_hang_delay_no_other_pause(play: Callable[[Test], None], whose: str) -> None:
    """Of another key however many hang; of the same key as long as they are few."""

    async def test(own: Own) -> None:
        pauses = await own.hang(40 if whose == "other" else 8)
        key = own.other if whose == "other" else own.key
        sandbox, copied = await own.create(key), await own.create(key)
        await own.sandboxes.pause(sandbox)
        await own.sandboxes.resume(sandbox, 600)
        await Snapshots(own.sandboxes).take(sandbox, None)
        await forks.fork(own.sandboxes, key, copied, 1, 600)
        await own.sandboxes.kill(sandbox)
        assert not any(pause.done() for pause in pauses), "they still hang"
        own.fleet.go_on.set()
        await asyncio.gather(*pauses)

    play(test)


def test_ends_that_hang_delay_nothing_of_other_keys(play: Callable[[Test], None]) -> None:
    async def test(own: Own) -> None:
        own.fleet.hung = {"end"}
        stuck = [await own.create() for _ in range(20)]
        own.fleet.hung = set()
        kills = [asyncio.create_task(own.sandboxes.kill(each)) for each in stuck]
        for _ in range(workers.ENDS_OF_A_KEY):
            assert await asyncio.to_thread(own.fleet.waiting.acquire, timeout=LIMIT_S)
        other = await own.create(own.other)
        await own.sandboxes.pause(other)
        await own.sandboxes.resume(other, 600)
        await own.sandboxes.kill(other)
        assert not any(kill.done() for kill in kills)
        own.fleet.go_on.set()
        await asyncio.gather(*kills)

    play(test)


@pytest.mark.parametrize("error", [GuestTimeout("it does not stop"), GuestDied("it has died")])
@pytest.mark.parametrize("change", ["pause", "snapshot", "fork", "time is up"])
def test_a_sandbox_that_does_not_stop_in_time_is_ended(
    play: Callable[[Test], None], error: Exception, change: str
) -> None:
    async def test(own: Own) -> None:
        sandbox = await own.create(autoPause=True)
        own.fleet.stopping = error
        if change == "time is up":
            await own.sandboxes.set_timeout(sandbox, 0)
            while own.states:
                await asyncio.sleep(0.01)
        else:
            with pytest.raises(ApiError, match="hung and was ended") as raised:
                if change == "pause":
                    await own.sandboxes.pause(sandbox)
                elif change == "snapshot":
                    await Snapshots(own.sandboxes).take(sandbox, None)
                else:
                    await forks.fork(own.sandboxes, own.key, sandbox, 1, 600)
            assert raised.value.status == 503
        await own.sandboxes.workers.settle()
        assert own.states == [] and own.alive == 0 and not own.sandboxes.by_id
        assert list(own.saved.iterdir()) == []

    play(test)


def test_a_sandbox_that_does_not_continue_is_ended(play: Callable[[Test], None]) -> None:
    async def test(own: Own) -> None:
        sandbox = await own.create()
        own.fleet.continuing = GuestTimeout("it does not answer")
        with pytest.raises(ApiError, match="hung and was ended"):
            await Snapshots(own.sandboxes).take(sandbox, None)
        assert own.states == [] and own.alive == 0

    play(test)


@pytest.mark.parametrize("fault", ["save", "store"])
def test_a_pause_that_this_host_cannot_save_leaves_the_sandbox_running(
    play: Callable[[Test], None], monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    async def test(own: Own) -> None:
        sandbox = await own.create()
        assert sandbox.running
        full, put = DiskFull("the disk is full"), own.store.put

        def refuse(stored: Any, durable: bool = False) -> None:
            if durable:
                raise full
            put(stored)

        with monkeypatch.context() as patched:
            if fault == "store":
                patched.setattr(own.store, "put", refuse)
            else:
                own.fleet.saving = full
            with pytest.raises(DiskFull):
                await own.sandboxes.pause(sandbox)
        assert own.fleet.continued == [sandbox.running.id]
        assert own.states == [sandbox.stored.state] == ["running"]
        assert own.alive == 1 and not sandbox.stored.saving
        own.fleet.saving = None
        await own.sandboxes.pause(sandbox)
        assert own.states == ["paused"] and own.alive == 0

    play(test)


def test_a_full_disk_ends_no_sandbox_whose_time_is_up(play: Callable[[Test], None]) -> None:
    async def test(own: Own) -> None:
        sandbox = await own.create(autoPause=True)
        own.fleet.saving = DiskFull("the disk is full")
        await own.sandboxes.set_timeout(sandbox, 0)
        while not sandbox.pause_again:
            await asyncio.sleep(0.01)
        assert own.states == ["running"] and own.alive == 1
        own.fleet.saving, sandbox.pause_again = None, time.monotonic()
        while own.states != ["paused"]:
            await asyncio.sleep(0.01)

    play(test)


def test_a_pause_whose_caller_is_cancelled_goes_on_to_its_end(
    play: Callable[[Test], None],
) -> None:
    async def test(own: Own) -> None:
        (pause,) = await own.hang(1)
        pause.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pause
        assert own.states == ["running"]
        own.fleet.go_on.set()
        await own.sandboxes.workers.settle()
        assert own.states == ["paused"] and own.alive == 0

    play(test)


def test_a_gateway_that_stops_waits_for_changes_under_way(play: Callable[[Test], None]) -> None:
    async def test(own: Own) -> None:
        (pause,) = await own.hang(1)
        closing = asyncio.create_task(own.sandboxes.close())
        await asyncio.sleep(0)
        own.fleet.go_on.set()
        await closing
        await pause
        assert own.states == ["paused"] and not own.store.sandboxes()[0].held

    play(test)


def test_an_abandoned_creation_from_a_snapshot_leaves_nothing(
    play: Callable[[Test], None],
) -> None:
    async def test(own: Own) -> None:
        sandbox = await own.create()
        snapshot = await Snapshots(own.sandboxes).take(sandbox, "s")
        await own.sandboxes.kill(sandbox)
        own.fleet.hung = {"resume"}
        body = {"templateID": snapshot.id}
        creations = [
            asyncio.create_task(own.sandboxes.create(own.key, body, 600, snapshot))
            for _ in range(workers.RESUMES_OF_A_KEY + 2)  # some have not begun
        ]
        for _ in range(workers.RESUMES_OF_A_KEY):
            assert await asyncio.to_thread(own.fleet.waiting.acquire, timeout=LIMIT_S)
        for creation in creations:
            creation.cancel()
        await asyncio.gather(*creations, return_exceptions=True)
        late = asyncio.create_task(own.sandboxes.create(own.key, body, 600, snapshot))
        await asyncio.sleep(0.05)
        assert not own.fleet.waiting.acquire(blocking=False), "those count as long as they last"
        late.cancel()
        own.fleet.go_on.set()
        await own.sandboxes.workers.settle()
        assert len(own.fleet.made) == 1 + workers.RESUMES_OF_A_KEY and own.alive == 0
        assert own.states == [] and not own.sandboxes.by_id
        assert own.sandboxes.admission.waiting == 0

    play(test)


def test_a_snapshot_that_is_removed_while_a_sandbox_is_made_of_it_stays_until_then(
    play: Callable[[Test], None],
) -> None:
    async def test(own: Own) -> None:
        snapshots = Snapshots(own.sandboxes)
        snapshot = await snapshots.take(await own.create(), "s")
        own.fleet.hung = {"resume"}
        creating = asyncio.create_task(own.sandboxes.create(own.key, BASE, 600, snapshot))
        assert await asyncio.to_thread(own.fleet.waiting.acquire, timeout=LIMIT_S)
        snapshots.remove(snapshot)
        await asyncio.sleep(0.05)
        assert len(list(own.saved.iterdir())) == 1
        own.fleet.go_on.set()
        await creating
        await own.sandboxes.remove_unneeded()
        assert list(own.saved.iterdir()) == []

    play(test)


@pytest.mark.parametrize("change", ["create", "resume"])
def test_a_sandbox_whose_envd_does_not_answer_is_not_left_to_run(
    play: Callable[[Test], None], change: str
) -> None:
    async def test(own: Own) -> None:
        sandbox = await own.create()
        snapshot = await Snapshots(own.sandboxes).take(sandbox, None)
        await own.sandboxes.pause(sandbox)
        own.fleet.deaf = True
        with pytest.raises(GuestDied):
            if change == "create":
                await own.sandboxes.create(own.key, BASE, 600, snapshot)
            else:
                await own.sandboxes.resume(sandbox, 600)
        assert own.states == ["paused"] and own.alive == 0
        own.fleet.deaf = False
        await own.sandboxes.resume(sandbox, 600)
        assert own.states == ["running"]

    play(test)


def test_what_is_not_removed_at_once_is_removed_later(
    play: Callable[[Test], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(own: Own) -> None:
        sandbox = await own.create()
        running, failures = sandbox.running, [OSError("busy"), OSError("busy")]
        assert isinstance(running, NoopSandbox)
        end = running.destroy

        def destroy() -> None:
            if failures:
                raise failures.pop()
            end()

        monkeypatch.setattr(running, "destroy", destroy)
        await own.sandboxes.kill(sandbox)
        assert own.alive == 0 and own.states == []

    play(test)


def test_ends_that_could_not_be_stored_are_stored_with_a_later_change(
    play: Callable[[Test], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(own: Own) -> None:
        sandboxes = [await own.create() for _ in range(3)]
        apply, ids = Database.apply, {sandbox.id for sandbox in sandboxes}

        def full(*_: object, **__: object) -> None:
            raise DiskFull("no space left")

        with monkeypatch.context() as patch:
            patch.setattr(Database, "apply", full)
            for sandbox in sandboxes:
                await own.sandboxes.kill(sandbox)
        assert own.alive == 0 and {stored.id for stored in own.store.sandboxes()} == ids

        def small(database: Database, *changes: Put | Removal, durable: bool = False) -> None:
            if len(changes) > 1:
                raise DiskFull("no space left")
            apply(database, *changes, durable=durable)

        with monkeypatch.context() as patch:  # there is room for what is new, not for all of it
            patch.setattr(Database, "apply", small)
            created = await own.create()
        await own.sandboxes.kill(created)
        assert own.store.sandboxes() == []

    play(test)

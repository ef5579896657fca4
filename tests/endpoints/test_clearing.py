"""What a run has made at a service is deleted at its end, however it ends."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from harness.endpoints import clearing, event_loop, journal, session
from harness.endpoints.client import ApiClient, opened
from harness.endpoints.journal import RunJournal
from harness.endpoints.settings import Endpoint, Limits
from harness.errors import EndpointFailed, LimitReached
from tests.host.processes import coppice
from tests.stand_ins.server import Standing, standing_in

RUN = "20261201T000000Z-00000000"


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("COPPICE_STATE", str(tmp_path))
    monkeypatch.setattr(clearing, "PATIENCE_S", 0.3)
    return tmp_path


def endpoint(service: Standing, **settings: Any) -> Endpoint:
    return Endpoint(
        "stand-in", "stand-in", service.address, service.key, template="base",
        sandbox_url=service.address, **settings,
    )  # fmt: skip


def making(
    service: Standing, count: int, after: Callable[[ApiClient], Awaitable[None]] | None = None
) -> Callable[[RunJournal], None]:
    """Makes sandboxes and leaves them."""

    async def whole(notes: RunJournal) -> None:
        async with opened(endpoint(service), notes) as client:
            for _ in range(count):
                await client.create()
            if after:
                await after(client)

    return lambda notes: event_loop.run(whole(notes))


def journals(state: Path) -> list[Path]:
    return sorted((state / "endpoints").rglob("*.jsonl"))


def killed(service: Standing, count: int) -> None:
    """A run that made sandboxes and was killed: its journal is there, and no process locks it."""
    with journal.opened(endpoint(service), RUN) as notes:
        making(service, count)(notes)


def test_a_run_that_ends_leaves_neither_sandboxes_nor_a_journal(state: Path) -> None:
    told: list[str] = []
    with standing_in() as service:
        with session.begun(endpoint(service), RUN, told.append) as begun:
            making(service, 3)(begun.journal)
            assert len(service.alive) == 3 and len(journals(state)) == 1
        assert service.alive == []
    assert begun.left == () or list(begun.left) == []
    assert not (state / "endpoints").exists()


def test_a_run_that_fails_leaves_nothing_either(state: Path) -> None:
    with standing_in() as service:
        with pytest.raises(KeyboardInterrupt):
            with session.begun(endpoint(service), RUN, lambda text: None) as begun:
                making(service, 2)(begun.journal)
                raise KeyboardInterrupt
        assert len(service.service.deleted) == 2 and service.alive == []
    assert journals(state) == []


def test_the_next_run_deletes_what_a_killed_one_left(state: Path) -> None:
    with standing_in() as service:
        killed(service, 2)
        assert len(service.alive) == 2 and len(journals(state)) == 1
        with session.begun(endpoint(service), "another", lambda text: None):
            assert service.alive == []
    assert journals(state) == []


def test_what_a_living_run_has_made_stays(state: Path) -> None:
    with standing_in() as service:
        with session.begun(endpoint(service), RUN, lambda text: None) as begun:
            making(service, 1)(begun.journal)
            assert session.reclaim(endpoint(service)).deleted == []
            assert len(service.alive) == 1


def test_a_half_written_line_hides_nothing(state: Path) -> None:
    with standing_in() as service:
        killed(service, 2)
        (path,) = journals(state)
        path.write_bytes(path.read_bytes() + b'{"gone": "i')
        assert sorted(session.reclaim(endpoint(service)).deleted) == sorted(service.service.made)


@pytest.mark.parametrize("behaviour", ["answer-lost", "half-way-body", "other-json"])
def test_a_sandbox_whose_creation_had_no_answer_is_found_by_its_metadata(behaviour: str) -> None:
    told: list[str] = []
    with standing_in(behaviour) as service:
        with pytest.raises(EndpointFailed):
            with session.begun(endpoint(service), RUN, told.append) as begun:
                making(service, 1)(begun.journal)
        assert len(service.service.made) == 1 and service.alive == []
    assert not [line for line in told if "not deleted" in line]


@pytest.mark.parametrize("status", [200, 202, 408, 500, 502, 504])
def test_a_sandbox_that_was_made_before_an_odd_answer_is_found_and_deleted(
    status: int, state: Path
) -> None:
    told: list[str] = []
    with standing_in(create_status=status) as service:
        with pytest.raises(EndpointFailed):
            with session.begun(endpoint(service), RUN, told.append) as begun:
                making(service, 1)(begun.journal)
        assert len(service.service.made) == 1 and service.alive == []
    assert told == ["deleting what was made at stand-in"] and journals(state) == []


@pytest.mark.parametrize("behaviour", ["busy-silent", "unavailable", "quota"])
def test_a_refusal_is_not_waited_for(behaviour: str) -> None:
    with standing_in(behaviour, quota=0) as service:
        with pytest.raises(EndpointFailed):
            with session.begun(endpoint(service), RUN, lambda text: None) as begun:
                making(service, 1)(begun.journal)
        assert not service.service.requests["list"]


def test_where_nothing_is_listed_it_is_told_when_a_lost_sandbox_ends(state: Path) -> None:
    told: list[str] = []
    with standing_in("no-list,answer-lost") as service:
        with pytest.raises(EndpointFailed):
            with session.begun(endpoint(service), RUN, told.append) as begun:
                making(service, 1)(begun.journal)
        assert len(service.alive) == 1
    (line,) = [line for line in told if "had no valid answer" in line]
    assert "its own timeout ends it by 20" in line and line.endswith(" UTC")


def test_what_stays_although_its_deletion_was_answered_is_listed_with_the_command(
    state: Path,
) -> None:
    told: list[str] = []
    with standing_in("leaky") as service:
        with session.begun(endpoint(service), RUN, told.append) as begun:
            making(service, 1)(begun.journal)
        (id,) = service.alive
    assert (
        f"not deleted at stand-in: {id}: its deletion was answered, and it is listed still" in told
    )
    assert any("coppice clean --endpoint" in line for line in told)
    assert list(begun.left) and len(journals(state)) == 1


def test_a_service_that_is_gone_leaves_a_list_and_a_journal(state: Path) -> None:
    told: list[str] = []
    with standing_in() as service:
        at = endpoint(service)
        killed(service, 1)
        (id,) = service.alive
    assert session.reclaim(at, told.append).deleted == []
    assert any(id in line and "nothing listens there" in line for line in told)
    assert len(journals(state)) == 1


def test_a_service_that_does_not_answer_is_not_waited_for_once_for_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("harness.endpoints.client.CALL_S", 0.3)
    told: list[str] = []
    with standing_in() as service:
        killed(service, 30)
        object.__setattr__(service.service.behaviour, "headers_s", 30.0)
        calls = service.service.requests["delete"]
        session.reclaim(endpoint(service), told.append)
        assert service.service.requests["delete"] - calls <= clearing.AT_ONCE
    assert sum("not deleted at stand-in" in line for line in told) == 30


def test_nothing_is_asked_of_a_service_at_which_nothing_was_made() -> None:
    with standing_in() as service:
        with session.begun(endpoint(service), RUN, lambda text: None):
            pass
        assert not service.service.requests


def test_more_than_the_limits_is_never_made() -> None:
    async def beyond(notes: RunJournal) -> float:
        async with opened(endpoint(service, limits=Limits(3, 20.0)), notes) as client:
            for _ in range(2):
                await client.delete((await client.create()).id)
            start = time.monotonic()
            for _ in range(3):
                await client.create()
            with pytest.raises(LimitReached, match="more than 3 sandboxes at once"):
                await client.create()
            return time.monotonic() - start

    with standing_in() as service:
        with session.begun(endpoint(service), RUN, lambda text: None) as begun:
            event_loop.run(beyond(begun.journal))
        assert len(service.service.made) == 5


def test_no_window_of_a_second_holds_more_creations_than_allowed() -> None:
    async def many(notes: RunJournal) -> list[float]:
        async with opened(endpoint(service, limits=Limits(99, 10.0)), notes) as client:
            return [(await client.create()).start for _ in range(13)]

    with standing_in() as service:
        with session.begun(endpoint(service), RUN, lambda text: None) as begun:
            starts = event_loop.run(many(begun.journal))
    assert all(later - first > 0.99 for first, later in zip(starts, starts[10:], strict=False))


def test_the_command_deletes_what_a_killed_run_left(state: Path) -> None:
    with standing_in() as service:
        killed(service, 2)
        environment = {"COPPICE_STATE": str(state), "E2B_API_KEY": service.key}
        arguments = ("clean", "--endpoint", service.address)
        shown = coppice(*arguments, "--dry-run", **environment)
        assert shown.stdout.count("would delete the sandbox") == 2 and len(service.alive) == 2
        done = coppice(*arguments, **environment)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.count("deleted the sandbox") == 2 and service.alive == []
        assert service.key not in done.stdout + shown.stdout
    assert journals(state) == []

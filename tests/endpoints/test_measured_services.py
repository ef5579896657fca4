"""What is measured at a service that is slow, busy, broken or lying: a lie gives no sample, a
refusal is no failure, and nothing stays behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.endpoints import event_loop, session
from harness.endpoints import journal as journals
from harness.endpoints.client import opened
from harness.endpoints.settings import Limits
from harness.errors import CoppiceError, Refused
from harness.measure.collector import Collector
from harness.measure.record import Series
from harness.procedures import api_latency
from harness.procedures.api_latency import CODE_CELL, COMMAND, CREATE, Loops, Step
from tests.endpoints.services import endpoint
from tests.stand_ins.server import Standing, standing_in

LIMITS = Limits(4, 1000.0)
STEPS = (Step(CREATE, 2, 1), Step(COMMAND, 3, 1), Step(CODE_CELL, 2, 2))


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of the journals."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(api_latency, "REFUSED_S", 0.01)
    monkeypatch.setattr("harness.endpoints.clearing.PATIENCE_S", 0.5)
    return tmp_path / "state"


def measured(
    service: Standing, steps: Sequence[Step] = STEPS, told: list[str] | None = None
) -> Mapping[str, Series]:
    """The series of these steps by metric and concurrency. Raises what ended them."""
    into = Collector()
    there = endpoint(service, limits=LIMITS)
    lines = [] if told is None else told

    async def measure(journal: journals.RunJournal) -> None:
        async with opened(there, journal) as client:
            loops = Loops(client, await api_latency.explored(client), into, 4)
            for step in steps:
                await loops.measure(step, {})

    with session.begun(there, "a-run", lines.append) as begun:
        event_loop.run(measure(begun.journal))
    return {f"{one.metric} {one.dimensions['concurrency']}": one for one in into.series}


def kinds(series: Series) -> set[str]:
    return {failure.kind or "failed" for failure in series.failures}


@pytest.mark.parametrize("names", ["honest", "pages", "jumping-clock", "cubesandbox"])
def test_an_honest_service_gives_a_sample_of_each_attempt(names: str, state: Path) -> None:
    boots: Mapping[str, Any] = {"boot_s": (0.1, 0.15)} if names == "cubesandbox" else {}
    with standing_in(names, **boots) as service:
        found = measured(service)
        assert len(found["create-headers 1"].samples) == 2 + 3
        for metric, count in (("usable 1", 3), ("first-run-code 2", 2)):
            assert (len(found[metric].samples), found[metric].failures) == (count, [])
        usable, headers = found["usable 1"].samples, found["create-headers 1"].samples
        assert all(sample > 0 for sample in (*usable, *headers))
        if boots:  # the pair that shows which clock was used
            assert min(usable) >= 0.1
        assert service.alive == []
        assert len(service.service.deleted) == len(service.service.made) == 1 + 2 + 3 + 2
    assert not list(state.rglob("*.jsonl"))


@pytest.mark.parametrize("names", ["lying", "lying-echo", "lying-ready"])
def test_a_lie_gives_no_sample_of_work_inside(names: str) -> None:
    with standing_in(names) as service:
        found = measured(service)
        for metric in ("usable 1", "first-command 1", "first-run-code 2", "first-run-code-alone 2"):
            assert found[metric].samples == []
            assert kinds(found[metric]) == {"failed"}
        assert service.alive == []


def test_sandboxes_that_are_not_there_to_be_deleted_are_a_doubt() -> None:
    async def create(journal: journals.RunJournal) -> Sequence[str]:
        async with opened(there, journal) as client:
            await Loops(client, api_latency.Inside(), into, 4).measure(Step(CREATE, 4, 1), {})
            return api_latency.doubts(client)

    for names, count in (("honest", 0), ("lying-half", 2)):
        into = Collector()
        with standing_in(names) as service:
            there = endpoint(service, limits=LIMITS)
            with session.begun(there, "a-run") as begun:
                doubts = event_loop.run(create(begun.journal))
        assert len(into.series[0].samples) == 4
        assert [line.partition(" ")[0] for line in doubts] == [str(count)] * (count > 0)


def test_one_sandbox_for_all_gives_one_sample_at_once() -> None:
    with standing_in("lying-same", command_s=0.3) as service:
        found = measured(service, [Step(COMMAND, 3, 3)])
        assert len(found["usable 3"].samples) == 1
        assert "twice" in found["usable 3"].failures[0].reason
        assert service.alive == []


@pytest.mark.parametrize("names", ["busy-half", "quota-half-way"])
def test_refusals_are_no_failures(names: str) -> None:
    settings: Mapping[str, Any] = {"retry_after": "0"} if names == "busy-half" else {}
    with standing_in(names, **settings) as service:
        found = measured(service, [Step(COMMAND, 6, 1)])
        usable = found["usable 1"]
        assert kinds(usable) == {"refused"}
        assert usable.samples and len(usable.samples) + len(usable.failures) == 6
        assert service.alive == []


@pytest.mark.parametrize("names", ["busy", "busy-silent", "unavailable"])
def test_a_service_that_refuses_everything_is_asked_a_few_times(names: str) -> None:
    with standing_in(names, retry_after="0" if names == "busy" else "") as service:
        with pytest.raises(Refused):
            measured(service)
        assert service.service.requests["create"] == api_latency.REFUSALS


@pytest.mark.parametrize("names", ["half-way-stream", "endless-output"])
def test_commands_that_break_off_are_failures(names: str) -> None:
    with standing_in(names) as service:
        found = measured(service, [Step(COMMAND, 2, 1)])
        assert found["usable 1"].samples == []
        assert kinds(found["usable 1"]) == {"failed"}
        assert len(found["create-headers 1"].samples) == 2
        assert service.alive == []


@pytest.mark.parametrize("names", ["half-way-header", "half-way-body", "answer-lost", "endless"])
def test_creations_without_an_answer_leave_nothing(names: str) -> None:
    # Two are answered: the one that explores, and the first that is measured.
    settings: Mapping[str, Any] = {} if names == "endless" else {"cut_after": 2}
    with standing_in(names, **settings) as service:
        try:
            found = measured(service, [Step(COMMAND, 3, 1)])
            assert len(found["usable 1"].samples) == 1
            assert kinds(found["usable 1"]) == {"failed"}
        except CoppiceError as error:
            assert names == "endless"
            assert "goes on" in str(error)
        assert service.service.made and service.alive == []


def test_what_a_service_keeps_is_named(state: Path) -> None:
    told: list[str] = []
    with standing_in("leaky") as service:
        measured(service, [Step(COMMAND, 2, 1)], told)
        assert len(service.alive) == 3
        for id in service.alive:
            assert any(id in line and "listed still" in line for line in told)
        assert any("coppice clean --endpoint" in line for line in told)
        assert not any(service.key in line for line in told)
    kept = list(state.rglob("*.jsonl"))
    assert len(kept) == 1 and service.key not in kept[0].read_text(encoding="utf-8")


def test_what_cannot_be_listed_is_deleted_by_its_ids(state: Path) -> None:
    with standing_in("no-list") as service:
        assert len(measured(service, [Step(COMMAND, 2, 1)])["usable 1"].samples) == 2
        assert service.alive == []
    assert not list(state.rglob("*.jsonl"))


def test_what_a_dead_run_has_made_is_deleted_by_the_next(state: Path) -> None:
    async def make(journal: journals.RunJournal) -> None:
        async with opened(there, journal) as client:
            for _ in range(3):
                await client.create()

    with standing_in("no-list") as service:
        there = endpoint(service, limits=LIMITS)
        with journals.opened(there, "dead-run") as journal:  # and it ends without a word
            event_loop.run(make(journal))
        assert len(service.alive) == 3
        told: list[str] = []
        # A service would say of another user's sandboxes that they are not there.
        other = endpoint(service, limits=LIMITS, key="e2b_another_key")
        with session.begun(other, "another-run", told.append):
            assert len(service.alive) == 3
        assert any("another key" in line and "dead-run" in line for line in told)
        assert sorted(session.reclaim(there).deleted) == sorted(service.service.made)
        assert service.alive == []
    assert not list(state.rglob("*.jsonl"))

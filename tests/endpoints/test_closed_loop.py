"""The closed loops of the rig e2b-latency, and the proofs that a sandbox has run what was asked."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from harness.endpoints import challenge, event_loop
from harness.endpoints.client import ApiClient, opened
from harness.endpoints.process_stream import Cell, Ran
from harness.endpoints.settings import Endpoint
from harness.endpoints.static_program import CODE, program
from harness.errors import KeyRefused, WrongAnswer
from harness.measure.collector import Collector
from harness.measure.record import Series
from harness.procedures import api_latency
from harness.procedures.api_latency import Inside, Loops, Step
from tests.stand_ins.server import Standing, standing_in


def using(service: Standing, work: Callable[[ApiClient], Awaitable[Any]], key: str = "") -> Any:
    at = Endpoint(
        "stand-in", "stand-in", service.address, key or service.key, template="base",
        sandbox_url=service.address,
    )  # fmt: skip

    async def whole() -> Any:
        async with opened(at, run_id="a-run") as client:
            return await work(client)

    return event_loop.run(whole())


def measured(service: Standing, step: Step, most: int = 8) -> dict[str, Series]:
    into = Collector()

    async def work(client: ApiClient) -> None:
        await Loops(client, Inside(), into, most).measure(step, {"system": "stand-in"})

    using(service, work)
    return {one.metric: one for one in into.series}


def test_a_closed_loop_makes_as_many_as_wanted_and_never_more_at_once_than_allowed() -> None:
    seen = []
    with standing_in() as service:
        into = Collector()

        async def work(client: ApiClient) -> None:
            loops = Loops(client, Inside(), into, 4, lambda: seen.append(len(service.alive)))
            await loops.measure(Step("create", 10, 2), {"system": "stand-in"})

        using(service, work)
        assert len(service.service.made) == 10 and service.alive == []
    assert seen == [0, 0, 0], "sandboxes are deleted after each batch of 4, 4 and 2"
    found = {one.metric: one for one in into.series}
    assert len(found["create-headers"].samples) == 10
    assert found["create-body"].dimensions == {"system": "stand-in", "concurrency": 2}


def test_creations_among_running_commands_are_no_plain_creations() -> None:
    with standing_in() as service:
        assert set(measured(service, Step("command", 2, 2))) == {
            "first-command", "first-command-alone", "usable",
        }  # fmt: skip
        assert "create-headers" in measured(service, Step("command", 2, 1))


def test_a_quota_that_is_full_half_way_ends_the_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_latency, "REFUSED_S", 0.01)
    with standing_in("quota-half-way") as service:
        found = measured(service, Step("create", 40, 1))["create-headers"]
        assert service.service.requests["create"] < 20 and service.alive == []
    assert len(found.samples) == 3
    assert {one.kind for one in found.failures} == {"refused"}
    assert "maximum number of sandboxes" in found.failures[0].reason


def test_a_rest_is_as_long_as_the_service_asks() -> None:
    with standing_in("busy", retry_after="0.05") as service:
        begun = time.monotonic()
        measured(service, Step("create", 9, 1))
        took_s = time.monotonic() - begun
        assert service.service.requests["create"] == api_latency.REFUSALS
    assert took_s >= 0.05 * api_latency.REFUSALS


@pytest.mark.parametrize("behaviour", ["lying", "lying-echo", "lying-ready", "half-way-stream"])
def test_a_clock_stops_only_on_work_done_inside(behaviour: str) -> None:
    with standing_in(behaviour) as service:
        found = measured(service, Step("command", 1, 1))
    assert found["create-headers"].samples
    for metric in ("first-command", "first-command-alone", "usable"):
        assert not found[metric].samples and found[metric].failures[0].kind is None


def test_a_wrong_key_ends_all_at_once() -> None:
    async def work(client: ApiClient) -> None:
        await Loops(client, Inside(), Collector(), 8).measure(Step("create", 9, 3), {})

    with standing_in() as service:
        with pytest.raises(KeyRefused, match="the key is not accepted"):
            using(service, work, key="e2b_of_somewhere_else")
        assert service.service.requests["create"] <= 3


def test_what_is_not_offered_is_said_once_and_not_asked_for() -> None:
    into = Collector()

    async def work(client: ApiClient) -> None:
        inside = Inside(not_offered={"code": "executing a cell was answered with 404"})
        loops = Loops(client, inside, into, 8)
        await loops.measure(Step("code", 5, 1), {"system": "stand-in"})
        await loops.measure_programs(["node", "node"], {"system": "stand-in"})

    with standing_in() as service:
        using(service, work)
        assert not service.service.requests
    assert [(one.metric, len(one.failures), one.failures[0].kind) for one in into.series] == [
        ("first-run-code", 1, "not-offered"), ("first-run-code-alone", 1, "not-offered"),
        ("first-program", 1, "not-offered"), ("first-program-alone", 1, "not-offered"),
    ]  # fmt: skip


def test_what_a_sandbox_has_is_found_in_one() -> None:
    with standing_in() as service:
        inside = using(service, api_latency.explored)
        assert service.alive == []
    assert inside.lacks("sh") is None and inside.lacks("command") is None
    assert inside.machine == platform.machine()


@pytest.mark.parametrize("name", ["bash", "sh", "ls", "python3"])
def test_a_program_that_runs_passes_and_an_echo_does_not(name: str) -> None:
    asked = challenge.challenge(name)
    if not Path(asked.argv[0]).exists():
        pytest.skip(f"{asked.argv[0]} is not installed")
    done = subprocess.run(asked.argv, capture_output=True, text=True, encoding="utf-8")
    asked.check(Ran(0.0, 1.0, done.stdout, done.stderr, done.returncode))
    for text in (" ".join(asked.argv), asked.argv[-1], "ready\n", ""):
        for code in (0, done.returncode):
            with pytest.raises(WrongAnswer):
                asked.check(Ran(0.0, 1.0, text, "", code))


def test_a_cell_must_return_the_product() -> None:
    code, expected = challenge.cell()
    challenge.check_cell(expected, Cell(0.0, 1.0, f"{expected}\n", "", None))
    for cell in (Cell(0, 1, code, "", None), Cell(0, 1, expected, "", "NameError: x")):
        with pytest.raises(WrongAnswer):
            challenge.check_cell(expected, cell)


def test_a_fresh_program_prints_its_own_product(tmp_path: Path) -> None:
    if platform.machine() not in CODE or os.uname().sysname != "Linux":
        pytest.skip(f"no program is made for {platform.machine()}")
    for a, b in ((0x80000000, 0xFFFFFFFF), (challenge.factors())):
        path = tmp_path / f"{a}"
        path.write_bytes(program(platform.machine(), a, b))
        path.chmod(0o755)
        done = subprocess.run([path], capture_output=True, text=True, encoding="utf-8")
        assert (done.stdout, done.stderr, done.returncode) == (f"{a * b}\n", "", 0)
    assert program("aarch64", 3, 5) != program("aarch64", 3, 7)

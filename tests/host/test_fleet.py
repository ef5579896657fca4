"""The pace, estimate and memory floor of a bring-up, with simulated figures and no sandboxes."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import GuestTimeout, LimitTooLow, NotEnoughMemory
from harness.host.identity import allocate
from harness.procedures import fleet as fleets
from harness.procedures.fleet import Bounds, SandboxFleet, Step, admit, ask_each, next_step
from harness.sandbox.noop import NoopSandbox

MIB, GIB = 1 << 20, 1 << 30
BOUNDS = Bounds(floor=GIB, runnable=8, patience_s=30)


def sandbox(leases: Path) -> NoopSandbox:
    return NoopSandbox(allocate(leases, "run"))


@pytest.mark.parametrize(
    ("available", "runnable", "under_way", "waited", "step"),
    [
        (4 * GIB, 2, 3, 0, Step.GO),
        (4 * GIB, 9, 3, 0, Step.WAIT),  # too many runnable processes
        (4 * GIB, 9, 0, 0, Step.GO),  # one at a time always continues, or it would never end
        (GIB + 29 * MIB, 2, 2, 0, Step.WAIT),  # room for two, and two are starting
        (GIB + 29 * MIB, 2, 1, 0, Step.GO),
        (GIB + 5 * MIB, 2, 0, 10, Step.WAIT),  # merging may still free some
        (GIB + 5 * MIB, 2, 0, 31, Step.STOP),
        (GIB + 5 * MIB, 2, 1, 31, Step.WAIT),  # not while one is still starting
        (GIB - 1, 2, 3, 0, Step.STOP),
    ],
)
def test_the_next_step(
    available: int, runnable: int, under_way: int, waited: float, step: Step
) -> None:
    assert next_step(BOUNDS, available, runnable, 10 * MIB, under_way, waited) is step


def test_an_estimate_above_the_memory_is_refused_with_figures() -> None:
    admit(100, 10 * MIB, 2 * GIB, BOUNDS)
    with pytest.raises(NotEnoughMemory) as refused:
        admit(1000, 10 * MIB, 2 * GIB, BOUNDS)
    text = str(refused.value)
    assert "1000 sandboxes of 10.0 MiB" in text and "need 9.8 GiB" in text
    assert "1.0 GiB available" in text and "at most 102" in text
    assert refused.value.exit_code == 71


def test_all_sandboxes_start_and_are_destroyed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleets, "WORKERS", 1)  # one after the other
    with SandboxFleet(lambda: sandbox(tmp_path), 0) as fleet:
        up = fleet.bring_up(20)
        assert len(fleet.sandboxes) == 20 and up.stopped is None and up.failures == []
        assert len(up.took) == len(up.up_at) == 20
        assert sorted(up.up_at) == up.up_at
        assert all(took <= at for took, at in zip(up.took, up.up_at, strict=True))
        assert len(list(tmp_path.iterdir())) == 20
    assert list(tmp_path.iterdir()) == []


def test_it_stops_at_the_floor_and_reports_how_many_are_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SandboxFleet(lambda: sandbox(tmp_path), 10 * MIB, BOUNDS) as fleet:
        monkeypatch.setattr(
            fleets, "available_memory", lambda: 2 * GIB - 200 * MIB * len(fleet.sandboxes)
        )
        monkeypatch.setattr(fleets, "WORKERS", 1)
        up = fleet.bring_up(50)
        assert 5 <= len(fleet.sandboxes) <= 7
        assert len(up.failures) == 50 - len(fleet.sandboxes)
        assert up.stopped and "1024 MiB must stay free" in up.stopped
        assert {why for _, why in up.failures} == {up.stopped}


def test_it_pauses_while_memory_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([2 * GIB] + [GIB + MIB] * 5 + [2 * GIB] * 100)
    monkeypatch.setattr(fleets, "available_memory", lambda: next(readings))
    monkeypatch.setattr(fleets, "runnable_threads", lambda: 0)  # other load on this machine
    with SandboxFleet(lambda: sandbox(tmp_path), 10 * MIB, BOUNDS) as fleet:
        up = fleet.bring_up(3)
        assert len(fleet.sandboxes) == 3 and up.waited_s > 0.04


def test_failures_keep_their_index_and_three_in_a_row_stop_it(tmp_path: Path) -> None:
    made = []

    class Mute(NoopSandbox):
        def awaken(self, timeout_s: float) -> float:
            raise GuestTimeout("it does not answer")

    def launch() -> NoopSandbox:
        made.append(0)
        return Mute(allocate(tmp_path, "run")) if len(made) > 2 else sandbox(tmp_path)

    with SandboxFleet(launch, 0) as fleet:
        up = fleet.bring_up(40)
        assert len(fleet.sandboxes) == 2
        assert len(up.failures) == 38 and up.stopped and "in a row failed" in up.stopped
        assert up.failures[0][1] == "GuestTimeout: it does not answer"
        assert len(made) < 12, "it must not try them all"
    assert list(tmp_path.iterdir()) == [], "failed ones are removed too"


def test_answers_keep_the_place_of_what_failed(tmp_path: Path) -> None:
    with SandboxFleet(lambda: sandbox(tmp_path), 0) as fleet:
        fleet.bring_up(3)
        bad = fleet.sandboxes[1]

        def question(one: object) -> None:
            if one is bad:
                raise GuestTimeout("no")

        answers = ask_each(fleet.sandboxes, question)
    assert len(answers.seconds) == 2 and answers.failures == [(1, "GuestTimeout: no")]


def test_more_open_files_than_the_host_allows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resource.getrlimit", lambda _: (100, 500))
    with SandboxFleet(lambda: sandbox(tmp_path), 0) as fleet:
        with pytest.raises(LimitTooLow, match="open files"):
            fleet.bring_up(1000)

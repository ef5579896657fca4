"""Transcripts of real commands on a real FreeBSD, replayed to the drivers in CI.

record.py recorded each file on FreeBSD under emulation: the commands work there as the driver
expects. In a replay, a driver fails that runs another command, or in another order. Answers that
guests compute are not in transcripts; hosts.Guest computes them.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.freebsd.documented import run_in
from tests.freebsd.hosts import AGENT, TRANSCRIPTS, Replay
from tests.freebsd.record import SCENES

RECORDED = sorted(path.stem for path in TRANSCRIPTS.glob("*.json"))


def test_every_transcript_is_of_a_scene() -> None:
    assert "doctor" in RECORDED and set(RECORDED) <= set(SCENES)


@pytest.mark.parametrize("name", RECORDED)
def test_drivers_run_the_recorded_commands(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COPPICE_GUEST_AGENT", AGENT)
    host = Replay(TRANSCRIPTS / f"{name}.json")
    assert "FreeBSD" in host.host and "emulated" in host.host
    SCENES[name](host, run_in(tmp_path), lambda text: None)
    assert host.ended, "the driver ran fewer commands than recorded"

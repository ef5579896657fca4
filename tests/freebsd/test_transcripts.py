"""Transcripts of real commands on a real FreeBSD, played back to the drivers in CI.

Each file was recorded by record.py on FreeBSD under emulation: it shows that a driver's commands do
there what it believes. Played back, a driver that asks for anything else, or in another order,
fails. What is computed in a guest no transcript holds; hosts.Guest stands for it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.freebsd.documented import run_in
from tests.freebsd.hosts import AGENT, TRANSCRIPTS, Replay
from tests.freebsd.record import SCENES

RECORDED = sorted(path.stem for path in TRANSCRIPTS.glob("*.json"))


def test_there_are_transcripts_and_each_is_of_a_scene() -> None:
    assert "doctor" in RECORDED and set(RECORDED) <= set(SCENES)


@pytest.mark.parametrize("name", RECORDED)
def test_a_driver_asks_what_it_asked_on_a_real_freebsd(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COPPICE_GUEST_AGENT", AGENT)
    host = Replay(TRANSCRIPTS / f"{name}.json")
    assert "FreeBSD" in host.host and "emulated" in host.host
    SCENES[name](host, run_in(tmp_path), lambda text: None)
    assert host.ended, "the driver left out what it did there"

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from harness import cli
from harness.commands import doctor
from harness.host.process import install_command
from harness.host.requirement import Requirement
from harness.rig import RigInfo

REMEDY = "apt-get install qemu-system-x86"


class FakeSubstrate:
    """Only says what it needs; makes nothing."""

    def __init__(self, needs: Sequence[Requirement]) -> None:
        self._needs = needs

    def requirements(self) -> Sequence[Requirement]:
        return self._needs


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> dict[str, FakeSubstrate | Exception]:
    """Fake substrates by name; an exception in place of one is raised when it is loaded."""
    substrates: dict[str, FakeSubstrate | Exception] = {
        "good": FakeSubstrate([Requirement("a thing", True, "it is here")]),
        "lacking": FakeSubstrate([Requirement("qemu", False, "not installed", REMEDY)]),
        "broken": ImportError("no module named nothing"),
    }

    def load(name: str) -> FakeSubstrate:
        found = substrates[name]
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(doctor, "registered", lambda: dict.fromkeys(substrates, "x:y"))
    monkeypatch.setattr(doctor, "load", load)
    return substrates


def with_rigs(monkeypatch: pytest.MonkeyPatch, *rigs: RigInfo) -> None:
    found = {rig.id: (Path("file"), rig) for rig in rigs}
    monkeypatch.setattr(doctor, "discover", lambda folder: found)


def test_the_text_says_what_runs_what_is_missing_and_what_brings_it(
    host: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with_rigs(monkeypatch, RigInfo("start", "Cold start", (), ("good", "lacking", "unknown")))
    assert cli.main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "good: runs here" in out and "ok      a thing: it is here" in out
    assert "lacking: does not run here" in out
    assert "missing qemu: not installed" in out and REMEDY in out
    assert "broken: does not run here" in out and "no module named nothing" in out
    assert "start (Cold start): good runs here" in out


def test_the_json_holds_the_same(
    host: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with_rigs(monkeypatch, RigInfo("start", "Cold start", (), ("good", "lacking")))
    assert cli.main(["doctor", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert {name: one["runs"] for name, one in said["substrates"].items()} == {
        "good": True, "lacking": False, "broken": False,
    }  # fmt: skip
    assert said["substrates"]["lacking"]["requirements"] == [
        {"what": "qemu", "satisfied": False, "detail": "not installed", "remedy": REMEDY}
    ]
    assert said["rigs"]["start"] == {
        "title": "Cold start", "runs_on": ["good"], "missing_tools": [],
    }  # fmt: skip


@pytest.mark.parametrize("arguments", [["doctor"], ["doctor", "--json"]])
def test_a_rig_that_runs_nowhere_here_makes_it_69(
    arguments: list[str], host: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_rigs(monkeypatch, RigInfo("start", "t", (), ("lacking",)))
    assert cli.main(arguments) == 69


def test_a_missing_program_of_a_rig_is_named_with_its_command(
    host: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with_rigs(monkeypatch, RigInfo("net", "t", (), ("good",), tools=("no-such-program", "sh")))
    assert cli.main(["doctor"]) == 69
    out = capsys.readouterr().out
    assert f"missing no-such-program\n            {install_command('no-such-program')}" in out
    assert "missing sh" not in out


def test_on_this_host_every_registered_substrate_and_rig_is_spoken_of(
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = cli.main(["doctor", "--json"])
    said = json.loads(capsys.readouterr().out)
    assert {"noop", "qemu", "bhyve"} <= set(said["substrates"])
    assert said["substrates"]["noop"]["runs"] is True
    assert "noop" in said["rigs"]["cold-start"]["runs_on"]
    nowhere = any(not rig["runs_on"] or rig["missing_tools"] for rig in said["rigs"].values())
    assert code == (69 if nowhere else 0)
    for substrate in said["substrates"].values():
        for need in substrate["requirements"]:
            assert need["satisfied"] or need["remedy"], "what is missing comes with its remedy"

"""`coppice doctor`, with fake substrates and once on this host."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from harness import paths
from harness.cli import main
from harness.commands import doctor
from harness.host import kvm_device
from harness.host.requirement import Requirement
from harness.rig import discovery
from harness.sandbox import protocol
from harness.sandbox.base import SubstrateBase

RIG = """
from harness.rig.info import RigInfo
RIG = RigInfo(
    "{id}", "Fake {id}", (), lambda substrate: substrate.name in {substrates!r}, {tools!r}
)
"""


class FakeRuns(SubstrateBase):
    def requirements(self) -> Sequence[Requirement]:
        return [Requirement("a fake tool", True, "in its place")]


class FakeLacks(SubstrateBase):
    def requirements(self) -> Sequence[Requirement]:
        return [
            Requirement("a fake tool", True, "in its place"),
            Requirement("a fake device", False, "does not open", "modprobe fake"),
        ]


class FakeRaises(SubstrateBase):
    def requirements(self) -> Sequence[Requirement]:
        raise OSError("the fake bus is on fire")


FAKES: dict[str, type] = {
    "noop": FakeRuns,
    "fake-runs": FakeRuns,
    "fake-lacks": FakeLacks,
    "fake-raises": FakeRaises,
}


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Puts a rig into the directory that the doctor searches."""

    def load(name: str) -> object:
        if name == "fake-absent":
            raise ModuleNotFoundError("No module named 'absent'")
        fake = FAKES[name]()
        fake.name = name
        return fake

    known = {**FAKES, "fake-absent": "absent:Absent"}
    for module in (doctor, protocol):
        monkeypatch.setattr(module, "registered", lambda distribution=None: known)
        monkeypatch.setattr(module, "load", load)
    monkeypatch.setattr(paths, "RIGS", tmp_path)

    def write(id: str, *substrates: str, tools: Sequence[str] = ()) -> None:
        text = RIG.format(id=id, substrates=substrates, tools=tuple(tools))
        (tmp_path / f"test_{id}.py").write_text(text, encoding="utf-8")

    return write


def test_text_names_what_is_missing_and_the_remedy(
    rig: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    rig("cold", "fake-runs", "fake-lacks")
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "  fake-runs: runs here" in lines
    at = lines.index("  fake-lacks: does not run here")
    assert lines[at + 1].split() == ["ok", "a", "fake", "tool:", "in", "its", "place"]
    assert lines[at + 2].strip() == "missing a fake device: does not open"
    assert lines[at + 3].strip() == "modprobe fake"
    assert "  cold (Fake cold): runs here; substrates: fake-runs" in lines


def test_what_runs_comes_first_and_those_that_lack_the_same_are_together(
    rig: Callable[..., None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rig("a-lacks", "fake-lacks")
    rig("cold", "fake-runs")
    load = protocol.load
    fakes = {"a-lacks": "fake-lacks", "b-lacks": "fake-lacks", "fake-runs": "fake-runs"}
    monkeypatch.setattr(doctor, "registered", lambda: fakes)
    monkeypatch.setattr(doctor, "load", lambda name: load(fakes[name]))
    assert main(["doctor"]) == 69
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:4] == [
        "  fake-runs: runs here",
        "  a-lacks, b-lacks: do not run here",
        "    missing a fake device: does not open",
    ]
    rigs = lines[lines.index("Rigs") + 1 :]
    assert [line.split()[0] for line in rigs if line[2] != " "] == ["cold", "a-lacks"]
    assert main(["doctor", "--all"]) == 69
    assert "    ok      a fake tool: in its place" in capsys.readouterr().out.splitlines()


def test_a_rig_that_does_not_run_here_may_measure_a_service(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert main(["doctor"]) == 69
    shown = capsys.readouterr().out
    (line,) = [line for line in shown.splitlines() if line.startswith("  e2b-latency (")]
    assert "does not run here, but measures a service (--endpoint)" in line


def test_json_has_the_documented_shape(
    rig: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    rig("cold", "noop", "fake-runs", "fake-lacks")
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rigs"] == {
        "cold": {
            "title": "Fake cold",
            "runs": True,
            "substrates": ["fake-lacks", "fake-runs", "noop"],
            "runs_on": ["fake-runs", "noop"],
            "by_name": [],
            "missing_tools": [],
            "requirements": [],
            "endpoint": False,
        }
    }
    lacks = found["substrates"]["fake-lacks"]
    assert lacks["runs"] is False
    assert lacks["requirements"][1] == {
        "what": "a fake device",
        "satisfied": False,
        "detail": "does not open",
        "remedy": "modprobe fake",
    }


def test_a_broken_substrate_is_shown_and_does_not_stop_the_report(
    rig: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    rig("cold", "fake-runs", "fake-raises", "fake-absent")
    assert main(["doctor", "--json"]) == 0
    substrates = json.loads(capsys.readouterr().out)["substrates"]
    for name, message in (("fake-raises", "on fire"), ("fake-absent", "named 'absent'")):
        assert substrates[name]["runs"] is False
        assert message in substrates[name]["requirements"][0]["detail"]


@pytest.mark.parametrize("substrates", [("fake-lacks",), ("noop", "fake-lacks"), ("unheard-of",)])
def test_a_rig_that_cannot_run_decides_the_exit_code(
    rig: Callable[..., None], substrates: Sequence[str], capsys: pytest.CaptureFixture[str]
) -> None:
    rig("good", "fake-runs")
    assert main(["doctor"]) == 0
    rig("bad", *substrates)
    assert main(["doctor"]) == 69
    assert "  bad (Fake bad): does not run here" in capsys.readouterr().out


def test_a_rig_without_its_tool_does_not_run(
    rig: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    rig("net", "fake-runs", tools=("sh", "fake-netperf"))
    assert main(["doctor"]) == 69
    out = capsys.readouterr().out
    assert "missing fake-netperf" in out
    assert "apt-get install fake-netperf" in out
    assert "missing sh" not in out


def test_a_rig_that_does_not_load_is_reported_and_the_others_are_shown(
    rig: Callable[..., None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rig("good", "fake-runs")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "test_bad.py").write_text("import no_such_module\n", encoding="utf-8")
    monkeypatch.setattr(
        discovery, "directories", lambda broken: iter([("ours", tmp_path), ("foreign", foreign)])
    )
    monkeypatch.setattr(discovery, "OURS", "ours")
    assert main(["doctor"]) == 69
    out = capsys.readouterr().out
    assert "test_bad.py: does not load" in out and "no_such_module" in out
    assert "  good (Fake good): runs here" in out


@pytest.mark.parametrize(
    ("variable", "text", "name", "why"),
    [
        ("COPPICE_ACCELERATOR", "tcg", "tcg", "set in COPPICE_ACCELERATOR"),
        ("COPPICE_ACCELERATOR", "magic", None, "must be kvm or tcg"),
        ("COPPICE_CPU", "a model", None, "must be MODEL"),
        ("", "", "tcg", "does not exist"),
    ],
)
def test_it_says_what_runs_guests_of_qemu(
    rig: Callable[..., None],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    text: str,
    name: str | None,
    why: str,
) -> None:
    rig("good", "fake-runs")
    for each in ("COPPICE_ACCELERATOR", "COPPICE_CPU"):
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setattr(kvm_device, "KVM", tmp_path / "kvm")
    if variable:
        monkeypatch.setenv(variable, text)
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["accelerator"]
    assert found["name"] == name and why in found["reason"] and found["tried"] is None
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "Guests of QEMU" in out and why in out
    assert main(["doctor", "--again"]) == (64 if variable == "COPPICE_ACCELERATOR" else 69)
    assert capsys.readouterr().err.count("\n") == 2, "an error and the command that helps"


def test_the_exit_code_agrees_with_the_report_on_this_host() -> None:
    command = [sys.executable, "-m", "harness.cli", "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    found = json.loads(done.stdout)
    assert {"bhyve", "noop", "qemu"} <= found["substrates"].keys()
    assert found["substrates"]["noop"]["runs"] is True
    assert found["substrates"]["bhyve"]["runs"] is False  # its host is FreeBSD
    assert "noop" in found["rigs"]["cold-start"]["runs_on"]
    for substrate in found["substrates"].values():
        for need in substrate["requirements"]:
            assert need["satisfied"] or need["remedy"], "a missing requirement has a remedy"
    everything = all(rig["runs"] for rig in found["rigs"].values())
    assert done.returncode == (0 if everything else 69)

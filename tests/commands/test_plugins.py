"""Packages that are broken, or that take built-in names: reported, skipped, and harmless."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.commands.plugins import coppice_with, install

SUBSTRATE = """
from harness.sandbox.base import SubstrateBase

class S(SubstrateBase):
    name = {name!r}
    {more}
    def requirements(self):
        {requirements}
    def prepare(self, run, cache, tier):
        raise RuntimeError("theirs was used")
    def launch(self, *given, **options):
        raise RuntimeError("theirs was used")
"""
RIG = """
from harness.rig.info import RigInfo
RIG = RigInfo(id={id!r}, title="theirs", claims=(), wants={wants})
"""


def substrate(name: str, more: str = "", requirements: str = "return []") -> str:
    return SUBSTRATE.format(name=name, more=more, requirements=requirements)


BROKEN = {
    "import": ("raise RuntimeError('on fire')", "does not load: RuntimeError('on fire')"),
    "bare": ("class S:\n    name = 'theirs'", "it has no own_kernel; expected a bool"),
    "name": (substrate("other"), "its name is 'other'; expected 'theirs', as it is registered"),
    "tiers": (substrate("theirs", "tiers = 7"), "its tiers is 7; expected a tuple of Tier"),
    "tier": (substrate("theirs", "tiers = ('full',)"), "expected a tuple of Tier"),
    "role": (substrate("theirs", "role = None"), "its role is None; expected a Role"),
    "method": (substrate("theirs", "launch = None", "return []").replace("def launch", "def l"),
               "its launch is None; expected a method"),
    "requirements": (substrate("theirs", "", "raise KeyError('luck')"), "KeyError('luck')"),
}  # fmt: skip


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Packages with each of BROKEN, under the name of its kind."""
    site = tmp_path_factory.mktemp("site")
    for kind, (text, _) in BROKEN.items():
        files = {f"m_{kind}.py": text.replace("theirs", kind)}
        install(site, f"pkg-{kind}", "coppice.substrates", f"{kind} = m_{kind}:S", files)
    return site


def test_the_doctor_says_what_is_wrong_with_each(broken: Path, tmp_path: Path) -> None:
    found = json.loads(coppice_with(broken, "doctor", "--json", cwd=tmp_path).stdout)
    for kind, (_, why) in BROKEN.items():
        assert found["substrates"][kind]["runs"] is False
        detail = found["substrates"][kind]["requirements"][0]["detail"]
        assert why.replace("theirs", kind) in detail
    assert found["rigs"]["cold-start"]["runs_on"], "and ours are shown as before"


@pytest.mark.parametrize("kind", ["import", "tiers", "requirements"])
def test_a_broken_substrate_is_refused_in_one_message(
    kind: str, broken: Path, tmp_path: Path
) -> None:
    done = coppice_with(broken, "run", "cold-start", "--substrate", kind, cwd=tmp_path)
    assert done.returncode == 78, done.stderr
    assert BROKEN[kind][1] in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("distribution", ["a-first"])
def test_a_substrate_of_ours_is_not_replaced(distribution: str, tmp_path: Path) -> None:
    site = tmp_path / "site"
    files = {"m_noop.py": substrate("noop")}
    install(site, distribution, "coppice.substrates", "noop = m_noop:S", files)
    done = coppice_with(site, "run", "cold-start", "--substrate", "noop", cwd=tmp_path)
    assert done.returncode == 0 and "theirs was used" not in done.stdout, done.stdout
    assert f"skipped the substrate noop of {distribution}: its name is taken" in done.stderr
    found = json.loads(coppice_with(site, "doctor", "--json", cwd=tmp_path).stdout)
    assert f"the substrate noop of {distribution}" in found["broken"]


RIGS = {
    "syntax": ("def (", "does not load: SyntaxError"),
    "no RIG": ("x = 1", "has no RIG = RigInfo(...)"),
    "ours": (RIG.format(id="cold-start", wants=None), "its id is taken: cold-start"),
}


@pytest.mark.parametrize("kind", RIGS)
def test_a_broken_rig_is_left_out_by_name(kind: str, tmp_path: Path) -> None:
    text, why = RIGS[kind]
    site = tmp_path / "site"
    files = {"p_rigs/__init__.py": "", "p_rigs/test_theirs.py": text}
    install(site, "pkg-rigs", "coppice.rigs", "theirs = p_rigs", files)
    done = coppice_with(site, "run", "cold-start", "--substrate", "noop", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "p_rigs/test_theirs.py" in done.stderr and why in done.stderr


def test_a_rig_that_cannot_choose_is_shown_by_the_doctor(tmp_path: Path) -> None:
    site = tmp_path / "site"
    text = RIG.format(id="theirs", wants="lambda substrate: substrate.nonsense")
    files = {"p_rigs/__init__.py": "", "p_rigs/test_theirs.py": text}
    install(site, "pkg-rigs", "coppice.rigs", "theirs = p_rigs", files)
    done = coppice_with(site, "doctor", "--json", cwd=tmp_path)
    rigs = json.loads(done.stdout)["rigs"]
    assert rigs["theirs"]["runs"] is False
    assert "nonsense" in rigs["theirs"]["requirements"][0]["detail"]
    assert rigs["cold-start"]["runs_on"]
    assert coppice_with(site, "run", "theirs", cwd=tmp_path).returncode != 0


COMMANDS = {
    "raises": ("theirs", "1 / 0", "left out the command theirs of pkg: ZeroDivisionError"),
    "empty": ("theirs", "", "it has no HELP, arguments, main"),
    "ours": (
        "clean",
        "HELP = ''\narguments = main = print",
        "the name is taken by coppice-harness",
    ),
}


@pytest.mark.parametrize("kind", COMMANDS)
def test_a_broken_command_is_left_out(kind: str, tmp_path: Path) -> None:
    name, text, why = COMMANDS[kind]
    site = tmp_path / "site"
    install(site, "pkg", "coppice.commands", f"{name} = m_cmd", {"m_cmd.py": text})
    done = coppice_with(site, "clean", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0 and done.stdout, done.stderr
    assert why in done.stderr and "Traceback" not in done.stderr


def test_a_wrong_command_line_has_the_documented_exit_code(tmp_path: Path) -> None:
    for argv in (["nope"], ["clean", "--nope"], []):
        done = coppice_with(tmp_path, *argv, cwd=tmp_path)
        assert done.returncode == 64 and "error: " in done.stderr

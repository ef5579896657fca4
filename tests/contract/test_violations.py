"""The contract bites: a substrate that breaks one promise fails the check of this promise alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from pathlib import Path

import pytest

from harness.host.run import VARIABLE

ROOT = Path(__file__).resolve().parents[2]
SUBSTRATES = ROOT / "tests" / "contract" / "violating_substrates.py"
EXAMPLE = ROOT / "examples" / "coppice-unshare" / "src" / "coppice_unshare.py"

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="unshare needs root"),
    pytest.mark.skipif(sys.platform != "linux", reason="unshare(1) is of Linux"),
]

BREAKS = {
    "Honest": set[str](),
    "AnswersWithoutComputing": {"test_a_wrong_answer_is_refused"},
    "ForgesItsFirstProcess": {"test_it_climbs_the_ladder"},
    "LeaksItsLease": {"test_destroying_it_releases_its_identity_and_may_be_repeated"},
    "LeavesAProcess": {"test_destroying_it_releases_its_identity_and_may_be_repeated"},
    "LeavesAnOrphan": {"test_sigkill_leaves_only_what_clean_finds"},
    "CannotBeDestroyedTwice": {"test_destroying_it_releases_its_identity_and_may_be_repeated"},
    "SharesItsHostname": {"test_twins_are_distinct"},
    "ClaimsAKernel": {"test_it_climbs_the_ladder"},
    "TakesNoMemory": {"test_it_climbs_the_ladder"},
    "NamesNoRemedy": {"test_it_declares_its_capabilities"},
}
"""Classes of violating_substrates.py, and the checks that each fails."""


def named(kind: str) -> str:
    """The name under which a class is registered: LeaksItsLease is leaks-its-lease."""
    return "".join(f"-{c.lower()}" if c.isupper() else c for c in kind).removeprefix("-")


@pytest.fixture(scope="module")
def failures(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Mapping[str, str]]:
    """The checks that failed and why, by class: all are run in one session of pytest."""
    packages, home = tmp_path_factory.mktemp("packages"), tmp_path_factory.mktemp("home")
    for source in (SUBSTRATES, EXAMPLE):
        shutil.copy(source, packages)
    info = packages / "violations-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: violations\nVersion: 1\n", encoding="utf-8"
    )
    entries = [f"{named(kind)} = {SUBSTRATES.stem}:{kind}\n" for kind in BREAKS]
    (info / "entry_points.txt").write_text(
        "[coppice.substrates]\n" + "".join(entries), encoding="utf-8"
    )
    classes = [
        f"class Test{kind}(SubstrateContract):\n"
        f"    substrate, own_names = {named(kind)!r}, ('hostname',)\n"
        for kind in BREAKS
    ]
    contract = home / "test_contract.py"
    contract.write_text(
        "from harness.testing import SubstrateContract\n" + "".join(classes), encoding="utf-8"
    )
    report = home / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += ["-p", "harness.rig.plugin", "-c", "/dev/null", "--rootdir", str(home)]
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    path = os.pathsep.join([str(packages), str(ROOT)])
    done = subprocess.run(
        [*command, f"--junitxml={report}", contract],
        env={**environment, "PYTHONPATH": path},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=120,
        encoding="utf-8",
    )
    assert report.exists(), done.stdout + done.stderr
    found: dict[str, dict[str, str]] = {kind: {} for kind in BREAKS}
    passed = 0
    for case in ElementTree.parse(report).iter("testcase"):
        kind = case.attrib["classname"].rpartition("Test")[2]
        failure = case.find("failure") if case.find("failure") is not None else case.find("error")
        if failure is not None:
            found[kind][case.attrib["name"].partition("[")[0]] = failure.attrib["message"]
        elif case.find("skipped") is None:
            passed += 1
    assert passed > len(BREAKS), f"they run on this host:\n{done.stdout}"
    return found


@pytest.mark.parametrize("kind", BREAKS)
def test_it_fails_exactly_the_check_that_it_breaks(
    kind: str, failures: Mapping[str, Mapping[str, str]]
) -> None:
    assert set(failures[kind]) == BREAKS[kind], failures[kind]

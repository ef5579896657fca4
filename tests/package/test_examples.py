"""The packages under examples/, installed with our wheel, are checked and measured."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.measure.record import Distribution, find, load
from tests.package.conftest import ROOT, Installed, build

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the unshare example needs root")
EXAMPLES = ROOT / "examples"


@pytest.fixture(scope="module")
def extended(
    wheel: Path, environment: Callable[..., Installed], tmp_path_factory: pytest.TempPathFactory
) -> Installed:
    built = tmp_path_factory.mktemp("examples")
    names = ("coppice-unshare", "coppice-exec-burst")
    return environment(wheel, *(build(EXAMPLES / name, built) for name in names))


def test_the_doctor_shows_both(extended: Installed) -> None:
    found = json.loads(extended("coppice", "doctor", "--json").stdout)
    assert found["substrates"]["unshare"]["runs"] is True
    assert "unshare" in found["rigs"]["cold-start"]["runs_on"]
    assert "unshare" in found["rigs"]["exec-burst"]["runs_on"]


def test_our_rig_measures_a_foreign_substrate(extended: Installed) -> None:
    done = extended("coppice", "run", "cold-start", "--substrate", "unshare", "--tier", "full")
    assert done.returncode == 0, done.stdout + done.stderr
    record = next(load(path) for path in find(extended.home / "results"))
    reply = next(series for series in record.series if series.metric == "first-reply")
    assert reply.samples and reply.dimensions["substrate"] == "unshare"
    assert record.tools["coppice-unshare"] == "1.0"


def test_a_foreign_rig_records_its_distribution(extended: Installed) -> None:
    done = extended(
        "coppice", "run", "exec-burst", "--substrate", "unshare", "--processes", "3",
        "--results", "foreign",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (record,) = [load(path) for path in find(extended.home / "foreign")]
    assert record.rig.distribution == Distribution("coppice-exec-burst", "1.0")
    assert record.git.commit is None, "an installed foreign wheel does not name its commit"
    assert len(record.series[0].samples) == 3
    task = "coppice run exec-burst --processes 3 --substrate unshare"
    assert record.command.task == task


def test_pages_show_what_they_measured(extended: Installed) -> None:
    for name in ("results", "foreign"):
        assert (extended.home / name).is_dir(), "the tests above must have run"
    assert extended("coppice", "site", "--results", "foreign").returncode == 0
    pages = {
        path.name for path in (extended.home / "_site").rglob("*.html")
        if "exec-burst" in path.read_text(encoding="utf-8")
    }  # fmt: skip
    assert {"index.html", "numbers.html", "runs.html"} <= pages


def test_the_substrate_passes_the_contract(extended: Installed) -> None:
    done = extended("pytest", str(EXAMPLES / "coppice-unshare"), "-q", "-p", "no:cacheprovider")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout


def test_a_substrate_that_breaks_the_contract_fails_it(extended: Installed, tmp_path: Path) -> None:
    """This contract expects a separate host name, which process lacks."""
    (tmp_path / "test_false.py").write_text(
        "from harness.testing import SubstrateContract\n\n\n"
        "class TestProcess(SubstrateContract):\n    substrate = 'process'\n",
        encoding="utf-8",
    )
    done = extended("pytest", str(tmp_path), "-q", "-p", "no:cacheprovider", "-k", "twins")
    assert done.returncode == 1
    assert "both have the same hostname" in done.stdout

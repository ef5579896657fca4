"""The density rig from the command to the record: what it refuses, and what a dead guest does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness.measure.record import RunRecord, find, load
from harness.rig.stages import AT_REST
from harness.sandbox.protocol import load as load_substrate
from tests.commands.plugins import loaded_by_rigs
from tests.host.processes import ROOT, carrying, coppice, eventually
from tests.stages import Stages

pytestmark = pytest.mark.skipif(
    not all(need.satisfied for need in load_substrate("qemu").requirements()),
    reason="QEMU is not installed: bin/mise run setup",
)
WANTED = ("density", "--substrate", "qemu", "--sharing", "mapped")


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "runtime"
    monkeypatch.setenv("COPPICE_RUNTIME", str(directory))
    monkeypatch.setenv("COPPICE_FAILURES", str(tmp_path / "failures"))
    for name, value in loaded_by_rigs(tmp_path / "hurried", "tests.qemu.hurried").items():
        monkeypatch.setenv(name, value)
    return directory


def only(results: Path) -> RunRecord:
    (path,) = find(results)
    return load(path)


def test_more_than_fits_is_refused_with_figures_before_any_fleet(tmp_path: Path) -> None:
    done = coppice("run", *WANTED, "--n", "2,1000000", "--results", str(tmp_path))
    assert done.returncode == 71, done.stdout
    assert "1000000 sandboxes of" in done.stdout and "--force" in done.stdout
    assert list(find(tmp_path)) == []


@pytest.mark.parametrize("option", [("--n", "many"), ("--n", "0"), ("--sharing", "common")])
def test_options_that_cannot_be_read(option: tuple[str, str], tmp_path: Path) -> None:
    done = coppice("run", "density", *option, "--results", str(tmp_path))
    assert done.returncode == 64, done.stdout


def test_bhyve_explains_itself(tmp_path: Path) -> None:
    done = coppice("run", "density", "--substrate", "bhyve", "--results", str(tmp_path))
    assert done.returncode == 69 and "bhyve needs" in done.stderr


def test_a_guest_killed_in_a_fleets_life_makes_the_record_a_failure(
    runtime: Path, tmp_path: Path, accelerator: str
) -> None:
    results = tmp_path / "results"
    command = [sys.executable, "-m", "harness.cli", "run", *WANTED, "--n", "3"]
    with (
        Stages(tmp_path, AT_REST) as stages,
        (tmp_path / "shown").open("w", encoding="utf-8") as shown,
        subprocess.Popen(
            [*command, "--results", results],
            cwd=ROOT,
            env={**os.environ, **stages.environment},
            stdout=shown,
        ) as process,
    ):
        with stages.at(AT_REST, process):
            vmms = [pid for pid in carrying(str(runtime)) if _is_vmm(pid)]
            assert len(vmms) == 3
            os.kill(vmms[0], signal.SIGKILL)
            eventually(lambda: not _is_vmm(vmms[0]))
        process.wait(280)
    record = only(results)
    assert record.machine.accelerator == accelerator
    assert record.validity.status == "failed"
    assert any("1 of 3" in reason for reason in record.validity.reasons)
    reply = next(one for one in record.series if one.metric == "reply")
    assert len(reply.samples) == 2 and reply.failures[0].reason.startswith("GuestDied")
    change = next(one for one in record.series if one.metric == "host-change")
    assert change.samples, "what was measured is kept"
    assert carrying(str(runtime)) == []
    (kept,) = (tmp_path / "failures").iterdir()
    assert f"kept: {kept}\n" in (tmp_path / "shown").read_text(encoding="utf-8")
    killed = [
        log for log in kept.glob("*/coppice-*.log") if "signal 9" in log.read_text(encoding="utf-8")
    ]
    assert len(killed) == 1, "the log of the guest that was killed says so"
    assert record.run_id in next(kept.glob("*/about.txt")).read_text(encoding="utf-8")


def _is_vmm(pid: int) -> bool:
    try:
        return b"qemu-system" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False

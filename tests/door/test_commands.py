"""The commands that people type: what they print, and how they end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from harness.commands import doctor
from harness.host.requirement import Requirement
from harness.measure import record
from harness.rig import RigInfo, discover
from harness.sandbox import protocol

ROOT = Path(__file__).parents[2]
TASKS = ROOT / "rigs" / "tasks" / "bench"
TIERS = ("full", "durable-pool", "durable-prewarm-pool", "prewarm-pool")


def _coppice(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "harness.cli", *words],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        cwd=ROOT,
    )


@pytest.mark.parametrize("tier", TIERS)
def test_bhyve_ends_at_once_with_one_clear_sentence(tier: str) -> None:
    if sys.platform.startswith("freebsd"):
        pytest.skip("this is the host it asks for")
    done = _coppice("run", "cold-start", "--substrate", "bhyve", "--tier", tier)
    assert done.returncode == 69 and done.stdout == ""
    assert done.stderr.startswith("coppice: bhyve needs a FreeBSD host with vmm")
    assert "BHYVE_SNAPSHOT" in done.stderr and "COPPICE_HOST=ssh://user@host" in done.stderr
    assert f"mise run bench:qemu-{tier} " in done.stderr


@pytest.mark.parametrize("substrate", ["qemu", "bhyve"])
@pytest.mark.parametrize("tier", TIERS)
def test_every_task_passes_its_arguments_on(tmp_path: Path, substrate: str, tier: str) -> None:
    (tmp_path / ".venv/bin").mkdir(parents=True)
    stub = tmp_path / ".venv/bin/coppice"
    stub.write_text('#!/bin/sh\necho "$@"\n')
    stub.chmod(0o755)
    task = TASKS / f"{substrate}-{tier}"
    said = subprocess.run([task, "--profile", "full"], cwd=tmp_path, capture_output=True, text=True)
    wanted = f"run cold-start --substrate {substrate} --tier {tier} --profile full\n"
    assert said.stdout == wanted


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["run", "no-such-rig"], "no rig is called 'no-such-rig'; there are cold-start"),
        (["run"], "name a rig, or say --all"),
        (["run", "--all", "--substrate", "vmware"], "no substrate is called 'vmware'"),
    ],
)
def test_wrong_usage(words: Sequence[str], sentence: str) -> None:
    done = _coppice(*words)
    assert done.returncode == 64 and sentence in done.stderr and "Traceback" not in done.stderr


def test_a_missing_vmm_is_named_with_its_package(tmp_path: Path) -> None:
    done = _coppice("run", "cold-start", "--substrate", "qemu", PATH=str(tmp_path))
    assert done.returncode == 69
    assert "qemu needs qemu-system-x86_64; not installed" in done.stderr
    assert "apt-get install qemu-system-x86" in done.stderr


def test_noop_leaves_a_record_and_the_benchmarks_beside_it(tmp_path: Path) -> None:
    done = _coppice("run", "cold-start", "--substrate", "noop", "--results", str(tmp_path))
    assert done.returncode == 0, done.stderr
    found = [record.load(path) for path in record.find(tmp_path)]
    assert {one.series[0].dimensions["concurrency"] for one in found} == {1, 10}
    (kept,) = tmp_path.glob("*/*.pytest-benchmark.json")
    assert kept.name.startswith(record.digest(kept))
    by_run = {
        one["extra_info"]["run_id"]: one for one in json.loads(kept.read_text())["benchmarks"]
    }
    for path in record.find(tmp_path):
        one = record.load(path)
        (claimed,) = (series for series in one.series if series.metric == "first-reply")
        benchmark = by_run[one.run_id]
        assert benchmark["stats"]["data"] == list(claimed.samples)
        assert benchmark["extra_info"]["record_sha256"] == record.digest(path)
        assert "noop durable-prewarm-pool at" in done.stdout


def test_plain_pytest_measures_too(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    command = [sys.executable, "-m", "pytest", "rigs/", "-k", "noop", f"--benchmark-json={out}"]
    done = subprocess.run(
        [*command, f"--results={tmp_path}", "-q"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout
    assert len(json.loads(out.read_text())["benchmarks"]) == 2
    assert len(list(record.find(tmp_path))) == 2


def test_names_select_tiers() -> None:
    command = [sys.executable, "-m", "pytest", "rigs/", "--collect-only", "-q", "-k"]
    done = subprocess.run(
        [*command, "qemu-durable-pool"], cwd=ROOT, capture_output=True, text=True
    ).stdout
    found = [line.partition("[")[2].rstrip("]") for line in done.splitlines() if "[" in line]
    assert found and all(name.startswith("qemu-durable-pool") for name in found)


def test_a_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", tmp_path], check=True)
    try:
        done = _coppice("run", "cold-start", "--substrate", "noop", "--results", str(tmp_path))
        left = [path for path in tmp_path.rglob("*") if path.is_file()]
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)
    assert done.returncode != 0 and "no room to write" in done.stdout + done.stderr
    assert left == []


def test_the_doctor_says_what_is_missing_and_what_brings_it() -> None:
    rigs = {"r": RigInfo("r", "A rig", (), ("good", "poor"), tools=("no-such-tool",))}
    poor = Requirement("a tool", False, "not here", "apt-get install tool")
    found = doctor.report({"good": [Requirement("x", True, "y")], "poor": [poor]}, rigs)
    assert found["substrates"]["good"]["runs"] and not found["substrates"]["poor"]["runs"]
    assert found["rigs"]["r"]["runs_on"] == ["good"]
    assert found["rigs"]["r"]["missing_tools"] == ["no-such-tool"]


def test_a_substrate_that_does_not_load_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise ImportError("its library is gone")

    monkeypatch.setattr(doctor, "load", fail)
    (need,) = doctor.examine(["theirs"])["theirs"]
    assert not need.satisfied and "its library is gone" in need.detail


def test_the_doctor_speaks_json_and_text() -> None:
    done = _coppice("doctor", "--json")
    found = json.loads(done.stdout)
    assert set(found["substrates"]) == set(protocol.registered())
    assert set(found["rigs"]) == set(discover(ROOT / "rigs"))
    assert done.returncode == 0
    said = _coppice("doctor").stdout
    assert "noop: runs here" in said and "bhyve: does not run here" in said

"""The record of a run whose guests ran under KVM."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.host.exit_cost import EMULATED_FROM, MEASURED
from harness.measure.record import find, load
from tests.host.processes import ROOT

pytestmark = [
    pytest.mark.kvm,
    pytest.mark.parametrize("accelerator", ["kvm"], indirect=True, scope="session"),
]
WANTED = {
    "profile": "smoke", "substrate": "qemu", "tier": "durable-prewarm-pool", "concurrency": "1"
}  # fmt: skip


@pytest.mark.timeout(900)
def test_it_says_what_kvm_costs_and_whether_times_count(accelerator: str, tmp_path: Path) -> None:
    wanted = [f"--coppice-{name}={value}" for name, value in WANTED.items()]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "rigs/test_cold_start.py",
         f"--coppice-results={tmp_path / 'results'}", *wanted],
        cwd=ROOT, env={**os.environ, "COPPICE_RUNTIME": str(tmp_path / "runtime")},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    (path,) = find(tmp_path / "results")
    record = load(path)
    assert record.machine.accelerator == accelerator
    costs = record.machine.kvm
    assert costs and costs["reason"] is None
    for name in MEASURED:
        assert isinstance(cost := costs[name], float) and cost > 0, name
    slowdown = costs["kernel_mode_slowdown"]
    assert isinstance(slowdown, float)
    if slowdown >= EMULATED_FROM:
        assert record.machine.function_only, "a guest's kernel is emulated here"
    ladder = {one.metric: len(one.samples) for one in record.series}
    assert ladder["first-reply"] and ladder["first-exec"], ladder
    assert not any(one.failures for one in record.series)

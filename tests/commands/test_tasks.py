"""The mise tasks, and bhyve's tasks on a host that is not FreeBSD."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from harness.sandbox.protocol import Tier
from tests.commands.tools import ROOT, script
from tests.host.processes import coppice

CASES = [(substrate, str(tier)) for substrate in ("qemu", "bhyve") for tier in Tier]


def test_there_is_a_task_for_every_substrate_and_tier() -> None:
    found = {path.name for path in (ROOT / "rigs/tasks/bench").iterdir()}
    assert found >= {f"{substrate}-{tier}" for substrate, tier in CASES}


@pytest.mark.parametrize(("substrate", "tier"), CASES)
def test_a_task_runs_its_tier_and_passes_on_arguments(
    substrate: str, tier: str, tmp_path: Path
) -> None:
    task = ROOT / "rigs/tasks/bench" / f"{substrate}-{tier}"
    assert os.access(task, os.X_OK)
    text = task.read_text()
    assert "#MISE description=" in text and '#MISE depends=["setup"]' in text
    copied = tmp_path / "rigs/tasks/bench" / task.name
    copied.parent.mkdir(parents=True)
    shutil.copy(task, copied)
    script(tmp_path / ".venv/bin/coppice", 'printf "%s\\n" "$@"\nexit 7\n')
    done = subprocess.run(
        [copied, "--profile", "full", "two words"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.splitlines() == [
        "run", "cold-start", "--substrate", substrate, "--tier", tier,
        "--profile", "full", "two words",
    ]  # fmt: skip
    assert done.returncode == 7, "the exit code is the command's"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("density", ["--profile", "full"]),
        (
            "qemu-fanout-1000",
            [
                "--substrate",
                "qemu",
                "--profile",
                "full",
                "--sharing",
                "forked,merged",
                "--n",
                "1000",
            ],
        ),
        (
            "bhyve-fanout-1000",
            ["--substrate", "bhyve", "--profile", "full", "--sharing", "mapped", "--n", "1000"],
        ),
    ],
)
def test_tasks_of_density_pass_on_overriding_options(
    name: str, words: list[str], tmp_path: Path
) -> None:
    task = ROOT / "rigs/tasks/bench" / name
    assert os.access(task, os.X_OK) and '#MISE depends=["setup"]' in task.read_text()
    script(tmp_path / ".venv/bin/coppice", 'printf "%s\\n" "$@"\nexit 7\n')
    done = subprocess.run([task, "--n", "8"], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.splitlines() == ["run", "density", *words, "--n", "8"]
    assert done.returncode == 7


def test_the_main_tasks_exist_and_set_up_first() -> None:
    tasks = tomllib.loads((ROOT / "mise.toml").read_text())["tasks"]
    assert {"setup", "bench", "test", "doctor", "site", "clean"} <= set(tasks)
    assert tasks["test"]["run"][0] == "bin/setup --tests"
    others = [task for name, task in tasks.items() if name not in ("setup", "test")]
    assert all(task["depends"] == ["setup"] for task in others)
    assert tasks["setup"]["run"] == "bin/setup" and os.access(ROOT / "bin/setup", os.X_OK)


def test_ci_runs_the_test_task() -> None:
    text = (ROOT / ".ci/run").read_text()
    assert os.access(ROOT / ".ci/run", os.X_OK)
    assert text.rstrip().splitlines()[-1] == "bin/mise run test"


@pytest.mark.skipif(sys.platform.startswith("freebsd"), reason="bhyve's own host")
@pytest.mark.parametrize("tier", list(Tier))
def test_bhyve_on_another_system_fails_at_once_with_a_remedy(tier: Tier, tmp_path: Path) -> None:
    done = coppice(
        "run", "cold-start", "--substrate", "bhyve", "--tier", tier, "--results", str(tmp_path)
    )
    assert (done.returncode, done.stdout) == (69, "")
    assert done.stderr.startswith("coppice: bhyve needs a FreeBSD host")
    assert "COPPICE_HOST=ssh://" in done.stderr
    assert f"bench:qemu-{tier} " in done.stderr and "TIER" not in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []

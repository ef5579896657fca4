"""The table of tasks, which mise, records, README and pages refer to."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.commands.run import selected
from harness.measure.record import find
from harness.rig.discovery import Rig, discover, table
from harness.rig.info import RigInfo
from harness.rig.tasks import Task, as_toml, repeat
from harness.sandbox.protocol import Tier
from tests.commands.tools import ROOT, script
from tests.host.processes import coppice

MISE = ROOT / "bin/mise"
FANOUT = {"substrate": "qemu", "profile": "full", "sharing": "forked", "n": "1000"}
TASKS = [
    Task("bench:cold", "cold", "every tier", {}),
    Task("bench:qemu", "cold", "qemu", {"substrate": "qemu"}),
    Task("bench:qemu-full", "cold", "qemu, booted", {"substrate": "qemu", "tier": "full"}),
    Task("bench:density", "density", "how many", {"profile": "full"}),
    Task("bench:fanout", "density", "a thousand", FANOUT),
]


def mise(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [MISE, *arguments], cwd=cwd, capture_output=True, text=True, encoding="utf-8"
    )


@pytest.fixture(scope="module")
def known() -> set[str]:
    """The names of all tasks, as mise lists them."""
    done = mise("tasks", "ls", "--json")
    if done.returncode == 69:
        pytest.skip(f"mise is not available: {done.stderr}")
    assert done.returncode == 0, done.stderr
    return {task["name"] for task in json.loads(done.stdout)}


def test_the_file_that_mise_reads_is_the_table() -> None:
    made = as_toml(table(discover().found))
    assert (ROOT / "rigs/tasks.toml").read_text(encoding="utf-8") == made, (
        "update it: .venv/bin/python -m harness.rig > rigs/tasks.toml"
    )


def test_every_built_in_substrate_has_a_task_for_each_tier(known: set[str]) -> None:
    tiers = {f"bench:{name}-{tier}" for name in ("qemu", "bhyve") for tier in Tier}
    shapes = {f"bench:jail-{shape}-full" for shape in ("raw", "vnet-pf", "zfs-clone")}
    assert known >= tiers | shapes | {"bench:oci-overlay", "bench:oci-overlay-prewarm-pool"}


def named() -> Iterator[tuple[str, str]]:
    """The texts of all records, claims, pages, essays and documents, which may name tasks."""
    for path in find(ROOT / "results"):
        yield json.loads(path.read_text(encoding="utf-8"))["command"]["task"], path.name
    places = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")]
    for directory in ("site", "harness", "rigs"):
        for suffix in ("md", "html", "yaml", "py"):
            places += (ROOT / directory).rglob(f"*.{suffix}")
    for path in places:
        yield path.read_text(encoding="utf-8"), str(path.relative_to(ROOT))


def test_every_task_that_a_text_names_exists(known: set[str]) -> None:
    found = [
        (task, where)
        for text, where in named()
        for task in re.findall(r"mise run ([a-z][a-z0-9:-]*[a-z0-9])(?!\w)", text)
    ]
    assert len(found) > 100
    assert [(task, where) for task, where in found if task not in known] == []


@pytest.mark.parametrize(
    ("rig", "options", "command"),
    [
        ("cold", {"profile": "quick"}, "mise run bench:cold"),
        (
            "cold",
            {"substrate": "qemu", "tier": "full", "profile": "quick"},
            "mise run bench:qemu-full",
        ),
        (
            "cold",
            {"substrate": "qemu", "tier": "full", "profile": "full"},
            "mise run bench:qemu-full -- --profile full",
        ),
        (
            "cold",
            {"substrate": "qemu", "tier": "durable-pool", "profile": "quick"},
            "mise run bench:qemu -- --tier durable-pool",
        ),
        (
            "cold",
            {"substrate": "oci", "tier": "full", "profile": "quick"},
            "mise run bench:cold -- --substrate oci --tier full",
        ),
        ("density", {"n": "8", "profile": "full"}, "mise run bench:density -- --n 8"),
        (
            "density",
            {"n": "8", "network": "yes", "profile": "quick"},
            "mise run bench:density -- --n 8 --network --profile quick",
        ),
        ("density", FANOUT, "mise run bench:fanout"),
        ("other", {"name": "two words", "profile": "full"},
         "coppice run other --name 'two words' --profile full"),
    ],
)  # fmt: skip
def test_the_command_that_repeats_a_run(rig: str, options: dict[str, str], command: str) -> None:
    assert repeat(TASKS, rig, options) == command


@pytest.mark.parametrize("name", [task.name for task in TASKS])
def test_a_task_repeats_itself(name: str) -> None:
    task = next(task for task in TASKS if task.name == name)
    assert repeat(TASKS, task.rig, {"profile": "quick", **task.options}) == f"mise run {name}"


def test_mise_runs_a_task_with_its_arguments_and_exit_code(known: set[str], tmp_path: Path) -> None:
    (tmp_path / "mise.toml").write_text(
        '[task_config]\nincludes = ["rigs/tasks.toml"]\n[tasks.setup]\nrun = "true"\n',
        encoding="utf-8",
    )
    (tmp_path / "rigs").mkdir()
    (tmp_path / "rigs/tasks.toml").write_text(
        (ROOT / "rigs/tasks.toml").read_text(encoding="utf-8"), encoding="utf-8"
    )
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/mise").write_bytes(MISE.read_bytes())
    (tmp_path / "bin/mise").chmod(0o755)
    script(tmp_path / ".venv/bin/coppice", 'printf "%s\\n" "$@"\nexit 7\n')
    done = subprocess.run(
        [tmp_path / "bin/mise", "run", "bench:qemu-full", "--", "--profile", "full", "two words"],
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.stdout.splitlines() == [
        "run", "cold-start", "--substrate", "qemu", "--tier", "full",
        "--profile", "full", "two words",
    ]  # fmt: skip
    assert done.returncode == 7, "the exit code is the command's"


def test_the_main_tasks_exist_and_set_up_first() -> None:
    tasks = tomllib.loads((ROOT / "mise.toml").read_text(encoding="utf-8"))["tasks"]
    assert {"setup", "bench", "test", "doctor", "site", "clean"} <= set(tasks)
    testing = ("test", "test:kvm")  # they set up what the tests need, too
    assert all(tasks[name]["run"][0] == "bin/setup --tests" for name in testing)
    others = [task for name, task in tasks.items() if name not in ("setup", *testing)]
    assert all(task["depends"] == ["setup"] for task in others)
    assert tasks["setup"]["run"] == "bin/setup" and os.access(ROOT / "bin/setup", os.X_OK)


def test_ci_runs_the_test_task() -> None:
    text = (ROOT / ".ci/run").read_text(encoding="utf-8")
    assert os.access(ROOT / ".ci/run", os.X_OK)
    assert text.rstrip().splitlines()[-1] == "bin/mise run test"


@pytest.mark.skipif(sys.platform.startswith("freebsd"), reason="this is a host of bhyve")
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


def test_all_rigs_are_those_that_do_not_take_long() -> None:
    short = Rig(Path("test_a.py"), RigInfo("a", "A", ()))
    long = Rig(Path("test_b.py"), RigInfo("b", "B", (), long=True))
    rigs = {"a": short, "b": long}
    assert selected(rigs, None) == [short]
    assert selected(rigs, "b") == [long]

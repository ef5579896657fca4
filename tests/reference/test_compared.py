"""The comparison's procedures on real columns: a simulated reboot, and the network."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.errors import SandboxError, UsageError
from harness.host import leftovers
from harness.host.run import Run
from harness.paths import cache_directory
from harness.procedures import reachability, reboot
from harness.procedures.columns import Column, Stand, columns, processes_under
from harness.procedures.reboot import simulate_reboot
from harness.sandbox.protocol import Tier, load

rig = importlib.import_module("rigs.test_compare")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts and networks are made by root")


@needs_root
@pytest.mark.parametrize(
    ("column", "state", "writes"),
    [
        (Column("process", Tier.FULL), True, True),  # it wrote to this host's disk
        (Column("oci-overlay", Tier.PREWARM_POOL), False, False),
        (Column("gvisor", Tier.DURABLE_POOL), True, False),
        (Column("qemu", Tier.DURABLE_POOL), True, False),
    ],
    ids=str,
)
def test_simulated_reboot(
    column: Column, state: bool, writes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    directories: list[Path] = []
    volatile = reboot._volatile

    @contextmanager
    def noted() -> Iterator[Path]:
        with volatile() as directory:
            directories.append(directory)
            yield directory

    monkeypatch.setattr(reboot, "_volatile", noted)
    after = simulate_reboot(column)
    assert (after.state, after.writes) == (state, writes)
    assert after.own_kernel is (column.substrate in ("gvisor", "qemu"))
    assert after.seconds > 0
    (directory,) = directories
    assert str(directory) not in Path("/proc/self/mounts").read_text(encoding="utf-8")
    assert not directory.exists()
    assert not leftovers.mark_of(directory.parent).exists()


@needs_root
def test_leftovers_of_a_killed_rebooting_rig_are_found(tmp_path: Path) -> None:
    runtime = tmp_path / "coppice"
    runtime.mkdir()
    code = (
        "import time\n"
        "from harness.procedures import reboot\n"
        "from harness.procedures.columns import Column\n"
        "from harness.sandbox.protocol import Tier\n"
        "reboot._power_off = lambda *more, **options: print(flush=True) or time.sleep(600)\n"
        "reboot.simulate_reboot(Column('process', Tier.FULL))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "COPPICE_RUNTIME": str(runtime)},
        stdout=subprocess.PIPE,
    ) as rig_process:
        assert rig_process.stdout
        assert rig_process.stdout.readline(), "the process was killed; the power loss comes next"
        (host,) = tmp_path.glob(f"{leftovers.REBOOTED}*")
        os.utime(host, (0, 0))  # new directories are never leftovers
        assert leftovers.find(runtime) == [], "a live process will remove it"
        rig_process.kill()
    try:
        for run in (host / leftovers.RUNTIME).iterdir():
            os.utime(run, (0, 0))
        os.utime(host, (0, 0))
        found = [one.what for one in leftovers.find(runtime)]
        assert found[-3:] == ["mount", "file", "directory"]
        assert "process" in found or "directory" in found[:-1]
    finally:
        leftovers.reclaim(runtime)
    assert not host.exists()
    assert not leftovers.mark_of(host).exists()
    assert str(host) not in Path("/proc/self/mounts").read_text(encoding="utf-8")
    assert leftovers.find(runtime) == []


@needs_root
def test_survivors_of_the_power_loss_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reboot, "PATIENCE_S", 0.2)
    with reboot._volatile() as directory:
        child = subprocess.Popen(["sleep", "600"], cwd=directory)
        try:
            assert processes_under(directory) == set()  # nothing identifies its run
            with pytest.raises(SandboxError, match="still in use after every process was killed"):
                reboot._power_off(directory)
        finally:
            child.kill()
            child.wait()
        (directory / "leases").mkdir()
        reboot._power_off(directory)
        assert list(directory.iterdir()) == []
    assert not directory.exists()


@needs_root
@pytest.mark.parametrize(
    "column", [Column("oci-net-overlay", Tier.FULL), Column("qemu", Tier.DURABLE_POOL)], ids=str
)
def test_reachability(column: Column, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reachability, "TRIES", 1)
    with ExitStack() as stack:
        found = reachability.matrix(Stand(run, cache_directory(), column, stack, 1), run)
    assert [one.target for one in found if one.policy == "one" and one.reached] == ["allowed"]
    assert [one.target for one in found if one.policy == "all" and one.reached] == [
        "neighbour", "host", "denied", "allowed",
    ]  # fmt: skip


def test_a_plan_visits_every_column_in_both_directions() -> None:
    plan = rig.planned({}, "full")
    assert plan.columns == columns()
    assert plan.parts == list(rig.PARTS)
    assert list(plan.visits["cc10"]) == list(plan.visits["cc50"]) == list(rig.ENDS)
    assert list(rig.planned({"rungs": "first-exec"}, "full").visits["cc50"]) == ["first-exec"]
    assert set(rig.planned({"visits": "3"}, "full").visits["cc10"].values()) == {3}
    turns = list(rig.there_and_back([1, 2, 3], 3))
    assert turns == [1, 2, 3, 3, 2, 1, 1, 2, 3]
    slow, usual = Column("qemu", Tier.FULL), Column("qemu", Tier.DURABLE_POOL)
    assert [rig._visits_of(one, 10, "first-exec", 8, "full") for one in (slow, usual)] == [4, 8]
    assert rig._visits_of(slow, 10, "first-reply", 8, "full") == 0
    assert rig._visits_of(slow, 1, "first-touch", 2, "quick") == 1


def test_slow_boots_are_omitted_at_high_concurrency_with_a_note() -> None:
    vm = SimpleNamespace(column=Column("vm", Tier.FULL), substrate=load("vm"))
    plan = rig.planned({"part": "cc10,cc50"}, "full")
    made = rig.cold_starts(plan, "cc10", [vm], lambda text: None)
    assert [(one.metric, one.dimensions["concurrency"]) for one in made] == [("measured-here", 10)]
    assert "--columns vm-full" in str(made[0].dimensions["reason"])
    named = rig.planned({"columns": "vm-full"}, "full")
    vm.substrate.each = 1 << 60
    assert "NotEnoughMemory" in rig.why_left_out(named, vm, 50)
    vm.substrate.each = 1
    assert rig.why_left_out(named, vm, 10) is None


def test_of_each_substrate_one_tier_is_tried_in_the_quick_profile() -> None:
    found = [SimpleNamespace(column=one) for one in columns()]
    tried = rig.stands_to_probe(rig.planned({}), found)
    assert len(tried) == len({one.column.substrate for one in found})
    assert tried[0] is found[0]
    assert rig.stands_to_probe(rig.planned({}, "full"), found) == found
    few = rig.stands_to_probe(rig.planned({}, "smoke"), found)
    assert [bool(load(one.column.substrate).network) for one in few] == [True, False]
    assert rig.stands_to_probe(rig.planned({"columns": "qemu-full"}), found) == found


@pytest.mark.parametrize(
    "options", [{"part": "cc2"}, {"columns": "docker"}, {"n": "0"}, {"visits": "often"}]
)
def test_invalid_plans_are_refused(options: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        rig.planned(options)

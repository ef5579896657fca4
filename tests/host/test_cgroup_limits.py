"""Control groups with limits: what is written to them, how they are entered, that they go."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from harness.errors import Unsupported
from harness.host import cgroups
from harness.host.cgroup_limits import CONTROLLERS, LimitedGroups, Limits
from harness.host.cgroups import Cgroups
from harness.host.session import trial_run

LIMITS = Limits(memory=64 << 20, pids=7, cpus=0.5)
needs_groups = pytest.mark.skipif(
    os.geteuid() != 0 or bool({*CONTROLLERS} & {*cgroups.find().unlimited}),
    reason="control groups are made by root, where they can be written",
)


def _read(group: Path, name: str) -> str:
    return (group / name).read_text(encoding="utf-8").strip()


@needs_groups
def test_a_group_has_its_limits_and_ends_what_is_left_in_it() -> None:
    with trial_run() as run:
        groups = LimitedGroups(run)
        group = groups.make("one", LIMITS)
        place = {name: cgroups.find().mounts[name] / group.path for name in CONTROLLERS}
        assert _read(place["pids"], "pids.max") == "7"
        if groups.version == 2:
            assert _read(place["memory"], "memory.max") == str(LIMITS.memory)
            assert _read(place["cpu"], "cpu.max") == "50000 100000"
        else:
            assert _read(place["memory"], "memory.limit_in_bytes") == str(LIMITS.memory)
            assert _read(place["cpu"], "cpu.cfs_quota_us") == "50000"
        with subprocess.Popen(["sleep", "600"]) as process:
            for directory in group.directories:
                (directory / "cgroup.procs").write_text(str(process.pid), encoding="utf-8")
            assert groups.names() == ["one"]
            group.remove()
            assert process.wait(10) != 0
        assert not any(directory.exists() for directory in group.directories)
        group.remove()
        groups.remove()
        assert run.id not in cgroups.find().of_runs(run.directory.parent)


@needs_groups
def test_a_group_is_made_when_its_parents_have_gone() -> None:
    """Another sandbox of the run may take them away: it removes those that are empty."""
    with trial_run() as run:
        groups = LimitedGroups(run)
        groups.remove()
        group = groups.make("one", LIMITS)
        assert all(directory.is_dir() for directory in group.directories)
        group.remove()
        groups.remove()


def test_version_2_hands_its_controllers_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = os.mkdir

    def kernel(path: Path) -> None:
        make(path)
        for name in ("memory.max", "pids.max", "cpu.max"):
            (path / name).touch()

    monkeypatch.setattr(cgroups, "find", lambda: Cgroups(2, dict.fromkeys(CONTROLLERS, tmp_path)))
    with trial_run() as run:
        groups = LimitedGroups(run)
        monkeypatch.setattr(os, "mkdir", kernel)
        group = groups.make("one", LIMITS)
        monkeypatch.setattr(os, "mkdir", make)
        (directory,) = group.directories
        assert _read(directory, "memory.max") == str(LIMITS.memory)
        assert _read(directory, "pids.max") == "7"
        assert _read(directory, "cpu.max") == "50000 100000"
        for level in (directory.parent, directory.parent.parent, tmp_path):
            assert _read(level, "cgroup.subtree_control") == "+memory +pids +cpu"
        assert not group.open_tasks()
        descriptor = group.open_directory()
        assert descriptor is not None
        os.close(descriptor)


def test_without_writable_groups_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroups, "find", lambda: Cgroups(1, {"memory": Path("/nowhere")}))
    with trial_run() as run, pytest.raises(Unsupported, match="pids, cpu"):
        LimitedGroups(run)

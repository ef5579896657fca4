"""The limits of a container count, not those of its host; its control groups stay as they were."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import control_groups
from harness.host import cgroups
from tests.host.processes import ROOT

MIB = 1 << 20
NAME = f"test-{os.getpid()}"
LIMITED = """
import json
from harness.host import cpus, memory
from harness.measure import machine
from harness.sandbox.pool import Pool
facts = machine.state()
print(json.dumps([memory.available_memory(), memory.usable_memory(), memory.memory_floor(),
                  cpus.usable(), facts["memory_limit_bytes"], facts["cpu_limit"],
                  facts["pids_limit"]]))
"""
COUNTED = """
import os
from harness.host import cgroups
from harness.host.session import open_run
seen = []
for _ in range(3):
    with open_run() as run, cgroups.counted(run) as spent:
        seen.append(spent is not None and spent() >= 0)
print(seen, open("/proc/self/cgroup").read())
"""


def fake(root: Path, mountinfo: str, own: str, **files: str) -> Path:
    """A file system with these mounts, groups and files (`__` stands for `/`, `_` for `.`)."""
    for name, text in {"proc/self/mountinfo": mountinfo, "proc/self/cgroup": own, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def test_the_smallest_limit_of_every_level_counts(tmp_path: Path) -> None:
    top = "sys/fs/cgroup"
    root = fake(
        tmp_path,
        "30 20 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n",
        "0::/outer/inner\n",
        **{
            f"{top}/outer/inner/memory.max": "max",
            f"{top}/outer/inner/memory.current": str(90 * MIB),
            f"{top}/outer/memory.max": str(700 * MIB),
            f"{top}/outer/memory.current": str(300 * MIB),
            f"{top}/outer/memory.stat": f"anon 1\ninactive_file {50 * MIB}\n",
            f"{top}/outer/inner/cpu.max": "150000 100000",
            f"{top}/outer/cpu.max": "400000 100000",
            f"{top}/outer/inner/pids.max": "max",
            f"{top}/outer/pids.max": "40",
            f"{top}/outer/pids.current": "30",
        },
    )
    assert control_groups.memory_limits(root) == (700 * MIB, 450 * MIB)
    assert control_groups.cpu_limit(root) == 1.5
    assert control_groups.pids_limit(root) == 40
    assert control_groups.pids_left(root) == 10


def test_a_group_is_mapped_through_the_root_of_its_mount(tmp_path: Path) -> None:
    mounts = (
        "31 30 0:27 /docker/7f /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
        "32 30 0:28 /other /sys/fs/cgroup/pids ro - cgroup cgroup rw,pids\n"
        "33 30 0:29 / /sys/fs/cgroup/cpu\\040and ro - cgroup cgroup rw,cpu,cpuacct\n"
    )
    own = "5:memory:/docker/7f/below\n4:pids:/docker/7f\n3:cpu,cpuacct:/\n"
    top = "sys/fs/cgroup"
    root = fake(
        tmp_path, mounts, own,
        **{
            f"{top}/memory/below/memory.limit_in_bytes": "9223372036854771712",
            f"{top}/memory/below/memory.usage_in_bytes": str(MIB),
            f"{top}/memory/below/memory.stat": f"hierarchical_memory_limit {64 * MIB}\n",
            f"{top}/pids/pids.max": "7",
            f"{top}/cpu and/cpu.cfs_quota_us": "-1",
            f"{top}/cpu and/cpu.cfs_period_us": "100000",
        },
    )  # fmt: skip
    assert control_groups.own_directory("memory", root) == root / top / "memory/below"
    assert control_groups.own_directory("pids", root) is None  # its mount shows another group
    assert control_groups.own_directory("cpuacct", root) == root / top / "cpu and"
    # A limit above the mount is told by the group itself.
    assert control_groups.memory_limits(root) == (64 * MIB, 63 * MIB)
    assert control_groups.pids_limit(root) is None
    assert control_groups.cpu_limit(root) is None


@contextlib.contextmanager
def groups(*controllers: str) -> Iterator[dict[str, Path]]:
    """A group of this test in each hierarchy of version 1."""
    mounts = cgroups.find().mounts
    if cgroups.find().version != 1 or not {*controllers} <= {*mounts}:
        pytest.skip(f"needs control groups of version 1 with {', '.join(controllers)}")
    made = {name: mounts[name] / NAME for name in controllers}
    try:
        for group in made.values():
            group.mkdir()
        yield made
    finally:
        for group in made.values():
            for directory in (*sorted(group.rglob("*/"), reverse=True), group):
                directory.rmdir()


def inside(made: dict[str, Path], program: str, before: str = "true") -> str:
    """The output of a program that runs in the groups, in a mount namespace of its own."""
    moves = "; ".join(f"echo $$ > {group}/cgroup.procs" for group in made.values())
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", f'{moves}; {before}; exec "$@"', "sh",
         sys.executable, "-c", program],
        cwd=ROOT, capture_output=True, text=True, timeout=120, encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_memory_and_processors_are_those_of_the_container() -> None:
    with groups("memory", "cpu", "pids") as made:
        (made["memory"] / "memory.limit_in_bytes").write_text(str(700 * MIB), encoding="utf-8")
        (made["pids"] / "pids.max").write_text("300", encoding="utf-8")
        quota = (made["cpu"] / "cpu.cfs_quota_us").exists()
        if quota:
            (made["cpu"] / "cpu.cfs_quota_us").write_text("100000", encoding="utf-8")
        found = json.loads(inside(made, LIMITED))
    available, usable, floor, cpus, memory_fact, cpu_fact, pids_fact = found
    assert 0 < available < 700 * MIB == usable == memory_fact
    assert floor == 700 * MIB // 8 and pids_fact == 300
    if quota:
        assert (cpus, cpu_fact) == (1, 1.0)


def test_groups_of_a_container_stay_as_they_were(runtime: Path) -> None:
    """Its mounts begin at its own group: nothing is created below it, case after case."""
    mounts = cgroups.find().mounts
    with groups(*({"cpuacct", "freezer", "memory"} & {*mounts})) as made:
        binds = "; ".join(f"mount --bind {made[name]} {mounts[name]}" for name in made) or "true"
        output = inside(made, COUNTED, binds)
        assert output.startswith("[True, True, True]")
        assert f"/{NAME}\n" in output and f"/{NAME}/" not in output
        for group in made.values():
            assert [entry for entry in group.iterdir() if entry.is_dir()] == []

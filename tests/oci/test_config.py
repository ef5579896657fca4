"""The configuration of containers."""

from __future__ import annotations

import dataclasses
import os
import resource
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from harness.errors import UsageError
from harness.host import cgroups
from harness.host.cgroups import Cgroups
from harness.host.identity import allocate
from harness.sandbox.oci import config
from harness.sandbox.oci.config import Limits
from harness.sandbox.oci.seccomp import PROFILE


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("memory", 0), ("memory", -1), ("memory", 4096), ("memory", 1 << 60),
        ("pids", 0), ("pids", 1 << 40), ("cpus", 0.0), ("cpus", 100_000.0), ("cpus", float("nan")),
    ],
)  # fmt: skip
def test_zero_and_excessive_limits_are_refused(name: str, value: float) -> None:
    with pytest.raises(UsageError) as refusal:
        Limits(**{name: value})  # type: ignore[arg-type]  # some are not integers
    assert refusal.value.exit_code == 64
    if value > psutil.virtual_memory().total:
        assert "this host has" in str(refusal.value)


@pytest.mark.parametrize("length", [0, 65, 300])
def test_invalid_hostnames_are_refused(length: int, tmp_path: Path) -> None:
    identity = dataclasses.replace(allocate(tmp_path, "run"), hostname="h" * length)
    with pytest.raises(UsageError, match=f"this one has {length}"):
        config.check(identity)
    config.check(dataclasses.replace(identity, hostname="h" * 64))


def test_limits_the_host_cannot_set_are_omitted(tmp_path: Path) -> None:
    identity = allocate(tmp_path, "run")
    bundle = config.bundle(identity, tmp_path, Limits(), ["memory"], "group", {})
    resources = bundle["linux"]["resources"]
    assert "memory" not in resources
    assert resources["pids"] == {"limit": 128}
    assert Cgroups(1, {"pids": tmp_path, "cpu": tmp_path}).unlimited == ["memory", "cpuset"]


def test_less_than_one_cpu_pins_to_one(tmp_path: Path) -> None:
    def cpu(limits: Limits, unlimited: Sequence[str] = ()) -> dict[str, object]:
        bundle = config.bundle(allocate(tmp_path, "run"), tmp_path, limits, unlimited, "group", {})
        found: dict[str, object] = bundle["linux"]["resources"]["cpu"]
        return found

    ours = {str(one) for one in os.sched_getaffinity(0)}
    assert {cpu(Limits(cpus=0.5))["cpus"] for _ in range(4 * len(ours))} == ours
    assert "cpus" not in cpu(Limits(cpus=1))
    assert "cpus" not in cpu(Limits(cpus=0.5), ["cpuset"])


def test_privileges_are_minimal(tmp_path: Path) -> None:
    bundle = config.bundle(allocate(tmp_path, "run"), tmp_path, Limits(), [], "group", {})
    process, linux = bundle["process"], bundle["linux"]
    assert process["noNewPrivileges"]
    assert not {"CAP_SYS_ADMIN", "CAP_NET_RAW", "CAP_MKNOD", "CAP_SYS_PTRACE"} & {
        name for names in process["capabilities"].values() for name in names
    }
    assert {one["type"] for one in linux["namespaces"]} == set(config.NAMESPACES)
    assert linux["resources"]["devices"] == [{"allow": False, "access": "rwm"}]
    assert not any(one["type"] == "bind" for one in bundle["mounts"])
    assert PROFILE["defaultAction"] == "SCMP_ACT_ERRNO"
    allowed = {name for rule in PROFILE["syscalls"] for name in rule["names"]}
    assert not allowed & {"mount", "keyctl", "bpf", "ptrace", "unshare", "setns", "init_module"}


def test_groups_belong_to_one_runtime_directory(tmp_path: Path) -> None:
    assert cgroups.parent_of(tmp_path / "a") != cgroups.parent_of(tmp_path / "b")
    # The same path on the same file system under another root is the directory of another machine.
    assert cgroups.parent_of(tmp_path / "a", tmp_path) != cgroups.parent_of(tmp_path / "a")


@pytest.mark.parametrize(
    ("hard", "set_"), [(1024, 1024), (4096, 4096), (20000, 4096), (resource.RLIM_INFINITY, 4096)]
)
def test_no_limit_of_open_files_is_above_the_caller_s(
    hard: int, set_: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda what: (hard, hard))
    assert config._within_own_limit(4096) == set_

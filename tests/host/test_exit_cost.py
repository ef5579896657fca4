"""What KVM costs: measured where it opens; elsewhere each fact is missing, with the reason."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import paths
from harness.host import exit_cost
from harness.host.compiled import program
from harness.paths import cache_directory

needs_compiler = pytest.mark.skipif(
    shutil.which("musl-gcc") is None, reason="the probe is compiled by musl-gcc (musl-tools)"
)
needs_kvm = pytest.mark.skipif(
    not os.access(exit_cost.KVM, os.R_OK | os.W_OK), reason=f"{exit_cost.KVM} does not open here"
)


@pytest.fixture
def unprivileged() -> Iterator[None]:
    """The real user, which access(2) asks about, is `nobody` for a while."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


def nothing_measured(device: Path) -> str:
    """The reason for which nothing was measured on this device."""
    found = exit_cost.facts(cache_directory(), device)
    assert [found[name] for name in exit_cost.MEASURED] == [None] * len(exit_cost.MEASURED)
    assert exit_cost.kernel_mode_emulated(found) is None
    reason = found["reason"]
    assert isinstance(reason, str)
    return reason


@needs_compiler
@needs_kvm
def test_it_measures_exits_and_kernel_mode() -> None:
    found = exit_cost.facts(cache_directory())
    assert found["reason"] is None, found
    for name in ("exit_io_s", "exit_mmio_s", "exit_user_s"):
        value = found[name]
        assert isinstance(value, float) and 1e-8 < value < 0.1, found
    slowdown = found["kernel_mode_slowdown"]
    assert isinstance(slowdown, float) and slowdown > 0.1, found
    assert str(found["module"]).startswith("kvm_")
    assert isinstance(found["nested"], bool)
    emulated = exit_cost.kernel_mode_emulated(found)
    assert (emulated is not None) == (slowdown >= exit_cost.EMULATED_FROM)


def test_a_host_without_kvm_has_no_facts_and_says_so(tmp_path: Path) -> None:
    assert nothing_measured(tmp_path / "kvm") == f"{tmp_path / 'kvm'} does not exist"


def test_without_rights_there_are_no_facts(unprivileged: None) -> None:
    if os.access("/dev/kvm", os.R_OK) or not Path("/dev/kvm").exists():
        pytest.skip("/dev/kvm is missing, or open to all users")
    assert nothing_measured(Path("/dev/kvm")) == "/dev/kvm cannot be opened: permission denied"


@needs_compiler
def test_a_device_that_is_not_kvm_is_named_with_the_step() -> None:
    assert nothing_measured(Path("/dev/null")).startswith("KVM_GET_API_VERSION: ")


@needs_compiler
@needs_kvm
@pytest.mark.skipif(shutil.which("prlimit") is None, reason="prlimit (util-linux) is not installed")
@pytest.mark.parametrize(("files", "step"), [(4, "KVM_CREATE_VM"), (5, "KVM_CREATE_VCPU")])
def test_a_step_that_kvm_refuses_is_the_reason(files: int, step: str) -> None:
    """A VM and its vCPU are descriptors, which the process may be out of."""
    probe = program(cache_directory(), paths.EXIT_COST_PROGRAM)
    done = subprocess.run(
        ["prlimit", f"--nofile={files}", probe, exit_cost.KVM],
        stdout=subprocess.PIPE,
        encoding="utf-8",
        check=True,
        timeout=60,
    )
    assert done.stdout.startswith(f"reason={step}: "), done.stdout

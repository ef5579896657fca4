"""VMMs of KVM, forked from one that has started and has no VM yet.

No guest runs here: the VMMs make their VMs and wait for a guest's state, so that this tries every
host whose /dev/kvm opens.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import Unsupported
from harness.host.identity import allocate
from harness.host.run import Run
from harness.measure import footprint_linux
from harness.sandbox.protocol import Sharing, Tier
from harness.sandbox.qemu import QemuSubstrate
from harness.sandbox.qemu.jail import KVM
from harness.sandbox.qemu.machine import Shape
from harness.sandbox.qemu.sandbox import QemuSandbox
from harness.sandbox.qemu.substrate import QemuTemplate
from tests.host.processes import eventually

needs_kvm = pytest.mark.skipif(
    not os.access(KVM, os.R_OK | os.W_OK), reason="this host has no /dev/kvm that opens"
)
VM = "anon_inode:kvm-vm"


@pytest.fixture
def under_kvm(template: QemuTemplate) -> QemuTemplate:
    """The template with an accelerator that any VMM starts with. Its guest is not restored."""
    return replace(template, shape=Shape("kvm", cpu="qemu64,-svm"))


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def _open_files(guest: QemuSandbox) -> list[str]:
    found = []
    for each in Path(f"/proc/{guest.vmm.process.pid}/fd").iterdir():
        found.append(str(each.readlink()))
    return found


def _private(guest: QemuSandbox) -> int:
    found = footprint_linux.read(guest.vmm.process.pid, guest.guest_memory)
    assert found
    return found.private


@needs_kvm
def test_each_fork_has_a_vm_and_channels_of_its_own(
    run: Run, substrate: QemuSubstrate, under_kvm: QemuTemplate, stack: ExitStack
) -> None:
    def launched(template: QemuTemplate, sharing: Sharing) -> QemuSandbox:
        identity = allocate(run.leases, run.id)
        made = substrate.launch(run, template, Tier.DURABLE_POOL, identity, sharing)
        stack.callback(made.destroy)
        return made

    spawned = launched(under_kvm, Sharing.MAPPED)
    forking = stack.enter_context(substrate.zygote(run, under_kvm, None, Sharing.STARTED))
    forks = [launched(forking, Sharing.STARTED) for _ in range(3)]
    assert forking.zygote and VM not in _open_files(forking.zygote.guest)
    for each in forks:
        assert _open_files(each).count(VM) == 1
        assert each.qmp.execute("query-status")["status"] == "inmigrate"
    # Each trims its heap when it has been idle for a moment.
    eventually(lambda: all(_private(each) < 0.8 * _private(spawned) for each in forks))
    forks[0].destroy()
    assert [each.qmp.execute("query-status")["status"] for each in forks[1:]] == ["inmigrate"] * 2
    users = {Path(f"/proc/{each.vmm.process.pid}").stat().st_uid for each in forks[1:]}
    assert len(users) == 2 or users == {os.getuid()}


def test_each_accelerator_refuses_the_kind_of_fork_that_it_cannot_make(
    run: Run, substrate: QemuSubstrate, template: QemuTemplate
) -> None:
    for accelerator, sharing in (("tcg", Sharing.STARTED), ("kvm", Sharing.FORKED)):
        other = replace(template, shape=Shape(accelerator))
        with (
            pytest.raises(Unsupported) as refused,
            substrate.zygote(run, other, None, sharing),
        ):
            pass
        assert refused.value.hint

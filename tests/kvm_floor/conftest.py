"""Sandboxes of kvm-floor, and images of guests that do what they should not."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from harness.host.identity import allocate
from harness.host.run import Run
from harness.paths import cache_directory
from harness.sandbox.kvm_floor.programs import Programs, build
from harness.sandbox.kvm_floor.sandbox import KvmFloorSandbox
from harness.sandbox.kvm_floor.substrate import KvmFloorSubstrate
from harness.sandbox.kvm_floor.vmm import Vmm
from harness.sandbox.protocol import Tier

PROGRAM = 0x4000
"""Where the guest's program lies in an image: PROGRAM - BASE of programs/layout.h."""
Launch = Callable[[Tier], KvmFloorSandbox]
Hostile = Callable[[bytes], Vmm]


@pytest.fixture
def substrate() -> KvmFloorSubstrate:
    found = KvmFloorSubstrate()
    for need in found.requirements():
        if not need.satisfied:
            pytest.skip(f"kvm-floor needs {need.what}; {need.detail}")
    return found


@pytest.fixture
def programs(substrate: KvmFloorSubstrate) -> Programs:
    return build(cache_directory())


@pytest.fixture
def launch(substrate: KvmFloorSubstrate, run: Run) -> Iterator[Launch]:
    """Launches sandboxes in a tier; they are destroyed with the test."""
    with ExitStack() as stack:

        def make(tier: Tier) -> KvmFloorSandbox:
            template = substrate.prepare(run, cache_directory(), tier)
            sandbox = substrate.launch(run, template, tier, allocate(run.leases, run.id))
            stack.callback(sandbox.destroy)
            return sandbox

        yield make


@pytest.fixture
def vmm_of(run: Run, programs: Programs) -> Iterator[Callable[[Path], Vmm]]:
    """Starts a VMM of its own for an image; it ends with the test."""
    with ExitStack() as stack:

        def start(image: Path) -> Vmm:
            vmm = Vmm(run, programs.vmm, image, f"test-{image.name}")
            stack.callback(vmm.end)
            return vmm

        yield start


@pytest.fixture
def hostile(
    programs: Programs, vmm_of: Callable[[Path], Vmm], tmp_path: Path
) -> Callable[[bytes], Vmm]:
    """A VMM whose guests run these instructions instead of our program."""

    def make(code: bytes) -> Vmm:
        whole = bytearray(programs.image.read_bytes())
        whole[PROGRAM : PROGRAM + len(code)] = code
        image = tmp_path / f"hostile-{code.hex()}"
        image.write_bytes(whole)
        return vmm_of(image)

    return make


@pytest.fixture
def channel() -> Iterator[Callable[[Vmm], tuple[int, socket.socket]]]:
    """Makes a VM and returns its number and our end of its channel."""
    with ExitStack() as stack:

        def make(vmm: Vmm) -> tuple[int, socket.socket]:
            near, far = socket.socketpair()
            stack.callback(near.close)
            with far:
                slot = vmm.create(far.fileno())
            near.settimeout(30)
            return slot, near

        yield make

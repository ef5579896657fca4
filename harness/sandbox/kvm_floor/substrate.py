"""The kvm-floor substrate: what a host's hardware allows a sandbox of its own to cost.

No QEMU, no guest kernel: a VM with one vCPU in user mode that runs a small program. It answers
nonces and touches memory, and serves nothing else, so it is what every other substrate can be
compared with, and no place to run code in.
"""

from __future__ import annotations

import contextlib
import platform
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from harness.errors import Unsupported, UsageError
from harness.host import kvm_device, package_names
from harness.host.cache import entry
from harness.host.identity import Identity
from harness.host.kvm_device import KVM
from harness.host.process import install_command, install_packages
from harness.host.requirement import Requirement
from harness.host.run import Run
from harness.measure.record import Image, Scalar
from harness.sandbox.base import MIB, SubstrateBase
from harness.sandbox.kvm_floor import checkpoint as checkpoints
from harness.sandbox.kvm_floor import vmm
from harness.sandbox.kvm_floor.checkpoint import Checkpoint
from harness.sandbox.kvm_floor.programs import Programs, build
from harness.sandbox.kvm_floor.sandbox import KvmFloorSandbox, started
from harness.sandbox.kvm_floor.vmm import Vmm, Vmms
from harness.sandbox.lifetime import destroyed_on_failure
from harness.sandbox.protocol import Compared, Role, Sharing, Tier
from harness.sandbox.shared_kernel import PerRun
from harness.sandbox.vm_state import VmState

LIMIT_S = 10.0
REHEARSALS = 2
"""Wake-ups of a pooled sandbox, so that what it writes to is its own and not the checkpoint's."""
_HEADER = Path("/usr/include/linux/kvm.h")
_of_run: dict[bool, PerRun[Vmms]] = {True: PerRun(), False: PerRun()}
"""The VMMs of each run: of restored guests, and of those that start."""


@dataclass(frozen=True)
class KvmFloorTemplate:
    """What sandboxes are launched from."""

    programs: Programs
    checkpoint: Checkpoint | None
    vmms: Vmms
    accelerator: str = "kvm"

    @property
    def images(self) -> Sequence[Image]:
        sealed = [self.checkpoint.as_record()] if self.checkpoint else []
        return [*self.programs.images, *sealed]


class KvmFloorSubstrate(SubstrateBase):
    """Implements `harness.sandbox.protocol.Substrate`."""

    name = "kvm-floor"
    tiers = (Tier.FULL, Tier.DURABLE_POOL, Tier.DURABLE_PREWARM_POOL)
    sharings = (Sharing.MAPPED,)
    role = Role.REFERENCE
    compared = Compared((Tier.DURABLE_PREWARM_POOL, Tier.DURABLE_POOL), fleet=Tier.DURABLE_POOL)
    boot_cpu_s = 0.001
    not_offered = MappingProxyType(
        {"first-exec": "its guests have no kernel, so they run no program but their own"}
    )

    def requirements(self) -> Sequence[Requirement]:
        x86 = platform.machine() == "x86_64"
        lines = [Requirement("x86-64", x86, platform.machine(), "run it on such a host")]
        compiler = shutil.which("musl-gcc")
        lines.append(
            Requirement(
                "musl-gcc", compiler is not None, compiler or "not installed",
                install_command("musl-gcc"),
            )
        )  # fmt: skip
        lines.append(
            Requirement(
                str(_HEADER), _HEADER.exists(), "found" if _HEADER.exists() else "not installed",
                install_packages(package_names.HEADERS),  # it needs the kernel's
            )
        )  # fmt: skip
        return [*lines, _kvm()]

    def memory_per_sandbox(self, tier: Tier) -> int:
        """An upper estimate. Nearly all is KVM's own and no choice of a VMM's: the VM, its vCPU,
        a page for each table of a memory slot, files in debugfs, and from the first run on what the
        vCPU keeps in stock for shadow pages (40 of each kind). 16 MiB more where it has touched
        them."""
        return MIB

    def prepare(self, run: Run, cache: Path, tier: Tier) -> KvmFloorTemplate:
        for need in self.requirements():
            if not need.satisfied:
                raise Unsupported(f"{need.what}: {need.detail}", hint=need.remedy)
        programs = build(cache)
        sealed = _sealed(run, cache, programs) if tier.restores else None
        image = sealed.image if sealed else programs.image

        @contextlib.contextmanager
        def opened() -> Iterator[Vmms]:
            kind = "restored" if sealed else "started"

            def start(number: int) -> Vmm:
                return Vmm(run, programs.vmm, image, f"kvm-floor-{kind}-{number}")

            vmms = Vmms(start, vmm.count())
            try:
                yield vmms
            finally:
                vmms.end()

        return KvmFloorTemplate(programs, sealed, _of_run[tier.restores].of(run, opened))

    def launch(
        self,
        run: Run,
        template: KvmFloorTemplate,
        tier: Tier,
        identity: Identity,
        sharing: Sharing = Sharing.MAPPED,
        tap: int | None = None,
    ) -> KvmFloorSandbox:
        if tap is not None:
            raise UsageError(f"{self.name} takes no tap: its guests have no network")
        with contextlib.ExitStack() as undo:
            undo.callback(identity.release)
            state = VmState.EMPTY if tier.restores else VmState.BOOTING
            sandbox = started(template.vmms.next(), identity, state)
            undo.pop_all()
        if tier.waits_in_memory:
            with destroyed_on_failure(sandbox):
                for _ in range(REHEARSALS):
                    sandbox.awaken(LIMIT_S)
                    sandbox.stop()
        return sandbox


def _kvm() -> Requirement:
    """Whether /dev/kvm opens and has the interface that the VMM uses; makes no VM."""
    if refused := kvm_device.refusal(KVM):
        return Requirement(str(KVM), False, str(refused.args[0]), refused.hint)
    if not kvm_device.exits_at_once(KVM):
        return Requirement(str(KVM), False, "lacks KVM_CAP_IMMEDIATE_EXIT", "Linux 4.12 or newer")
    return Requirement(str(KVM), True, "opens")


def _sealed(run: Run, cache: Path, programs: Programs) -> Checkpoint:
    """The checkpoint, from the cache or made now."""
    built_from: Mapping[str, Scalar] = {
        "substrate": KvmFloorSubstrate.name,
        "sources_sha256": programs.built_from,
    }

    def fill(directory: Path) -> None:
        _seal(run, programs, directory / checkpoints.IMAGE)
        checkpoints.complete(directory, built_from)

    return checkpoints.load(entry(checkpoints.path_for(cache, built_from), fill), built_from)


def _seal(run: Run, programs: Programs, target: Path) -> None:
    """Run a guest until it waits for its first request, and save it."""
    with contextlib.ExitStack() as undo:
        made = Vmm(run, programs.vmm, programs.image, "kvm-floor-seal")
        undo.callback(made.end)
        near, far = socket.socketpair()
        undo.callback(near.close)
        with far:
            slot = made.create(far.fileno())
        made.send(made.message(slot, b""))
        near.settimeout(LIMIT_S)
        if not near.recv(64):
            raise made.died()
        made.stop(slot)
        with target.open("wb") as file:
            made.save(slot, file.fileno())

"""The bhyve substrate: an image, a checkpoint and microVMs in every tier, local or over ssh."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.errors import NameTaken, Unsupported
from harness.guest import efi_disk
from harness.guest.efi_disk import LinuxImage
from harness.guest.freebsd import FreebsdImage, build
from harness.host import freebsd
from harness.host.identity import Identity, allocate
from harness.host.local import LocalHost
from harness.host.protocol import Host
from harness.host.requirement import Requirement
from harness.host.run import Run
from harness.measure.record import Image, Scalar
from harness.sandbox.base import ECHO, MIB, SEAL, SubstrateBase
from harness.sandbox.bhyve import checkpoint as checkpoints
from harness.sandbox.bhyve.checkpoint import Checkpoint
from harness.sandbox.bhyve.machine import Drive, Shape, arguments
from harness.sandbox.bhyve.sandbox import BhyveSandbox
from harness.sandbox.bhyve.vm import Vm
from harness.sandbox.lifetime import destroyed_on_failure
from harness.sandbox.protocol import Sharing, Tier
from harness.sandbox.qemu.kernel_arguments import line_of_bhyve
from harness.sandbox.vm_state import VmState

COUNTERPART = "mise run bench:qemu-TIER measures the same tier with QEMU on this host"
BOOT_LIMIT_S = 600.0
WARM_UPS = 8
WRITTEN_MIB = 24
"""What a restored guest writes until the end of the ladder, whose last rung writes 16 MiB."""


@dataclass(frozen=True)
class BhyveTemplate:
    """What sandboxes are launched from. `shares`: this kernel can map a checkpoint's memory."""

    host: Host
    shape: Shape
    image: FreebsdImage | LinuxImage
    checkpoint: Checkpoint | None
    shares: bool
    accelerator: str | None = "vmm"

    @property
    def images(self) -> Sequence[Image]:
        sealed = [self.checkpoint.as_record()] if self.checkpoint else []
        return [self.image.as_record("guest"), *sealed]


class BhyveSubstrate(SubstrateBase):
    """Implements `harness.sandbox.protocol.Substrate`. `host` returns the host of a run."""

    name = "bhyve"
    own_kernel = True
    tiers = tuple(Tier)
    sharings = (Sharing.PRIVATE, Sharing.MAPPED)
    compared = None
    boot_cpu_s = 2.0
    tools: Sequence[str] = ("bhyve", "bhyvectl")

    def __init__(
        self,
        host: Callable[[Run | None], Host] = LocalHost,
        shape: Shape | None = None,
    ) -> None:
        self._host = host
        self._shape = shape or Shape()
        if efi_disk.is_requested():
            self._shape = replace(self._shape, boot="bootrom")

    def requirements(self) -> Sequence[Requirement]:
        """Every requirement on FreeBSD; on other systems only the requirement of FreeBSD.

        TIER in a remedy stands for the requested tier.
        """
        host = self._host(None)
        if not freebsd.is_freebsd(host):
            return [_elsewhere()]
        linux = self._shape.boot == "bootrom"
        programs = freebsd.programs(host, *self.tools, *(() if linux else ("bhyveload",)), "makefs")
        rom = [freebsd.bootrom(host)] if linux else []
        return [freebsd.root(host), *freebsd.virtual_machines(host), *rom, *programs]

    def restoring(self) -> Sequence[Requirement]:
        """What the tiers that restore a checkpoint need in addition."""
        return [freebsd.snapshots(self._host(None))]

    def memory_per_sandbox(self, tier: Tier) -> int:
        """An upper estimate: bhyve and all of the guest's memory; where restored guests share
        memory, only what one of them writes until the end of the ladder."""
        shared = tier.restores and freebsd.vnode_patch(self._host(None)).satisfied
        return (20 + (WRITTEN_MIB if shared else self._shape.memory_mib)) * MIB

    def prepare(self, run: Run, cache: Path, tier: Tier) -> BhyveTemplate:
        host = self._host(run)
        needs = [*self.requirements(), *(self.restoring() if tier.restores else ())]
        for need in needs:
            if not need.satisfied:
                remedy = (need.remedy or "").replace("TIER", tier)
                raise Unsupported(f"bhyve needs {need.what}; {need.detail}", hint=remedy)
        if tier.restores:
            checkpoints.directory_for(str(cache), {})  # a path may be too long
        image: FreebsdImage | LinuxImage = (
            efi_disk.build(host, str(cache), line_of_bhyve())
            if self._shape.boot == "bootrom"
            else build(host, str(cache), kernel=True)
        )
        sealed = self._sealed(host, run, str(cache), image) if tier.restores else None
        shares = freebsd.vnode_patch(host).satisfied
        return BhyveTemplate(host, self._shape, image, sealed, shares)

    def launch(
        self,
        run: Run,
        template: BhyveTemplate,
        tier: Tier,
        identity: Identity,
        sharing: Sharing | None = None,
        tap: int | None = None,
    ) -> BhyveSandbox:
        """See `Substrate.launch`. Without `sharing` guests share memory if this kernel can; `tap`
        is the tap interface's unit number."""
        share = _shares(template, sharing)
        if tier.restores:
            guest = self._empty(run, template, identity, share, tap)
        else:
            guest = self._boot(template.host, run, template.image, identity, tap)
        with destroyed_on_failure(guest):
            if tier.waits_in_memory:
                guest.awaken(BOOT_LIMIT_S)
                guest.adopt_identity()
                # Rehearse what a caller will do, then stop.
                guest.first_exec("rehearsal")
                guest.stop()
        return guest

    def _boot(
        self,
        host: Host,
        run: Run,
        image: FreebsdImage | LinuxImage,
        identity: Identity,
        tap: int | None = None,
    ) -> BhyveSandbox:
        with _made(host, run, identity) as vm:
            plug = vm.plug(tap)
            vm.create()
            if not isinstance(image, LinuxImage):
                vm.load(self._shape, image.stage)
            vm.start(
                arguments(self._shape, vm.name, tap=plug, mac=identity.mac, drive=_drive(image))
            )
        return BhyveSandbox(vm, identity, VmState.BOOTING)

    def _empty(
        self, run: Run, template: BhyveTemplate, identity: Identity, share: bool, tap: int | None
    ) -> BhyveSandbox:
        """A virtual machine without a process, to restore later."""
        assert template.checkpoint
        with _made(template.host, run, identity) as vm:
            plug = vm.plug(tap)
            vm.create()
        argv = arguments(
            template.shape, vm.name, tap=plug, mac=identity.mac, drive=_drive(template.image),
            restore=template.checkpoint.memory, share=share,
        )  # fmt: skip
        return BhyveSandbox(vm, identity, VmState.EMPTY, argv)

    # The checkpoint.

    def _sealed(
        self, host: Host, run: Run, cache: str, image: FreebsdImage | LinuxImage
    ) -> Checkpoint:
        built_from: dict[str, Scalar] = {
            "image": image.sha256,
            **self._shape.facts(),
            "warm_ups": WARM_UPS,
        }
        if not checkpoints.exists(host, cache, built_from):
            with checkpoints.writing(host, cache, built_from) as memory:
                self._seal(host, run, image, memory)
        return checkpoints.load(host, cache, built_from, self._shape.memory_mib)

    def _seal(self, host: Host, run: Run, image: FreebsdImage | LinuxImage, memory: str) -> None:
        """Boot a guest, warm it up, and save it."""
        guest = self._boot(host, run, image, allocate(run.leases, run.id))
        try:
            guest.awaken(BOOT_LIMIT_S)
            for number in range(WARM_UPS):
                guest.agent.run((ECHO, str(number)))
            guest.agent.write_file(SEAL, b"written before the checkpoint")
            guest.vm.suspend(memory)
        finally:
            guest.destroy()


def _elsewhere() -> Requirement:
    return Requirement(
        "a FreeBSD host with vmm, and BHYVE_SNAPSHOT for the durable tiers",
        False,
        f"this host is {sys.platform.capitalize()}",
        f"COPPICE_HOST=ssh://user@host runs it there; {COUNTERPART}",
    )


def _drive(image: FreebsdImage | LinuxImage) -> Drive | None:
    return Drive(freebsd.BOOTROM, image.disk) if isinstance(image, LinuxImage) else None


@contextlib.contextmanager
def _made(host: Host, run: Run, identity: Identity) -> Iterator[Vm]:
    """A new virtual machine for an identity. If the block fails both are released, but a virtual
    machine of that name that another process created is left alone."""
    vm = Vm(host, run.object_name(identity.id))
    try:
        yield vm
    except BaseException as error:
        vm.destroy(keep=isinstance(error, NameTaken))
        identity.release()
        raise


def _shares(template: BhyveTemplate, sharing: Sharing | None) -> bool:
    """Whether guests will map their checkpoint. Unsupported if it was requested in vain."""
    if sharing in (Sharing.MERGED, Sharing.FORKED, Sharing.STARTED):
        raise Unsupported(f"bhyve guests cannot be {sharing}")
    if sharing is Sharing.MAPPED and not template.shares:
        need = freebsd.vnode_patch(template.host)
        raise Unsupported(f"shared memory needs {need.what}; {need.detail}", hint=need.remedy)
    return template.shares if sharing is None else sharing is Sharing.MAPPED

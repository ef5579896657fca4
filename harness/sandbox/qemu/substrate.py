"""The qemu substrate: builds the image and the checkpoint, launches microVMs in every tier."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from harness.errors import SandboxError, Unsupported, UsageError
from harness.guest.image import GuestImage, build
from harness.host import ksm
from harness.host.cache import entry
from harness.host.identity import Identity, allocate
from harness.host.memory import refuse_huge_pages
from harness.host.requirement import Requirement
from harness.host.run import Run
from harness.measure.record import Image, Scalar
from harness.sandbox.base import MIB, SEAL, SubstrateBase
from harness.sandbox.lifetime import destroyed_on_failure
from harness.sandbox.protocol import Compared, Sharing, Tier
from harness.sandbox.qemu import arrival, guest_facts, packets
from harness.sandbox.qemu import checkpoint as checkpoints
from harness.sandbox.qemu.accelerator import choose
from harness.sandbox.qemu.boot_retry import await_boot, retry_stalled_boot
from harness.sandbox.qemu.boot_slots import BootSlots
from harness.sandbox.qemu.checkpoint import Checkpoint
from harness.sandbox.qemu.jail import image as confinement_image
from harness.sandbox.qemu.jail import jail_for
from harness.sandbox.qemu.machine import PROGRAM, Descriptors, Shape, arguments
from harness.sandbox.qemu.preparation import PREPARATIONS, arm_and_stop
from harness.sandbox.qemu.requirements import requirements
from harness.sandbox.qemu.sandbox import QemuSandbox
from harness.sandbox.qemu.vmm import inherited, opened, spawn
from harness.sandbox.qemu.zygote import Preload, Zygote, preload
from harness.sandbox.vm_state import VmState

T = TypeVar("T")
BOOT_LIMIT_S = 300.0
SAVE_LIMIT_S = 120.0
MEMORY_MIB = {"tcg": (64, 176), "kvm": (16, 128)}
"""Of a sandbox that was restored, and of one that has booted. Measured: under TCG 18 to 40 MiB, and
90 to 130; under KVM, where no code is translated, 7 restored, the kernel's part included."""


@dataclass(frozen=True)
class QemuTemplate:
    """What sandboxes are launched from. `note` is why the accelerator was chosen."""

    shape: Shape
    image: GuestImage
    checkpoint: Checkpoint | None
    note: str
    mergeable: Path
    """A wrapper that executes a VMM with mergeable memory (KSM)."""
    cache: Path
    confinement: Image
    """How its VMMs are confined."""
    booted: Image | None = None
    """What a guest that boots says of itself."""
    zygote: Zygote | None = None

    @property
    def accelerator(self) -> str:
        return self.shape.accelerator

    @property
    def images(self) -> Sequence[Image]:
        sealed = [self.checkpoint.as_record()] if self.checkpoint else []
        booted = [self.booted] if self.booted else []
        return [self.image.as_record(), *sealed, *booted, self.confinement]


class QemuSubstrate(SubstrateBase):
    """Implements `harness.sandbox.protocol.Substrate`."""

    name = "qemu"
    own_kernel = True
    kernel_by_choice = True
    tiers = tuple(Tier)
    sharings = tuple(Sharing)
    network = True
    compared = Compared(
        (Tier.DURABLE_PREWARM_POOL, Tier.DURABLE_POOL, Tier.FULL), fleet=Tier.DURABLE_POOL
    )
    boot_cpu_s = 2.0
    tools = (PROGRAM,)

    def __init__(self, line: str = "virtio") -> None:
        self._line = line
        self._accelerator = "tcg"
        self._slots = BootSlots()

    def requirements(self) -> Sequence[Requirement]:
        return requirements()

    def memory_per_sandbox(self, tier: Tier) -> int:
        """An upper estimate. Of the accelerator that `prepare` has chosen; before, the larger."""
        restored, booted = MEMORY_MIB[self._accelerator]
        return (restored if tier.restores else booted) * MIB

    def prepare(self, run: Run, cache: Path, tier: Tier) -> QemuTemplate:
        image = build(cache)
        chosen = choose(run, cache, image)
        shape = replace(chosen.shape, line=self._line, quiet_nic=True)
        self._accelerator = chosen.name
        if chosen.name == "tcg":
            refuse_huge_pages()
        sealed = self._sealed(run, cache, image, shape) if tier.restores else None
        facts = None if tier.restores else self._facts(run, cache, image, shape)
        confined = confinement_image(run, chosen.name)
        return QemuTemplate(
            shape, image, sealed, chosen.reason, ksm.program(cache), cache, confined, facts
        )

    def launch(
        self,
        run: Run,
        template: QemuTemplate,
        tier: Tier,
        identity: Identity,
        sharing: Sharing = Sharing.MAPPED,
        tap: int | None = None,
    ) -> QemuSandbox:
        started = sharing is Sharing.STARTED
        forked = tier.restores and (started or sharing is Sharing.FORKED)
        if forked and template.zygote is None:
            raise UsageError(
                "this template has no zygote to fork sandboxes from",
                hint="launch with the template that `zygote` yields",
            )
        with contextlib.ExitStack() as undo:
            undo.callback(identity.release)
            if not tier.restores:
                guest = self._boot(run, template.image, template.shape, identity, tap=tap)
            elif forked and template.zygote:
                guest = template.zygote.fork(run, identity, tap)
            else:
                guest = self._empty(run, template, identity, sharing, tap)
            undo.pop_all()
        with destroyed_on_failure(guest):
            if not tier.restores:
                guest.vmm.greeting(30)
            elif started:
                _greeted(guest)
            if tier.waits_in_memory:
                preparation = PREPARATIONS[template.accelerator]
                guest.awaken(BOOT_LIMIT_S)
                guest.adopt_identity()
                if not tier.restores:  # a checkpoint is warm
                    preparation.booted.run(guest)
                arm_and_stop(guest)
                preparation.rehearse_for_pool(guest, BOOT_LIMIT_S)
        return guest

    @contextlib.contextmanager
    def zygote(
        self,
        run: Run,
        template: QemuTemplate,
        tap: int | None = None,
        sharing: Sharing = Sharing.FORKED,
    ) -> Iterator[QemuTemplate]:
        started = sharing is Sharing.STARTED
        if started and template.accelerator != "kvm":
            raise Unsupported(
                "VMMs are forked before they have a VM only under KVM; under TCG whole guests are",
                hint="--sharing forked",
            )
        if not started and template.accelerator != "tcg":
            raise Unsupported(
                f"{template.accelerator} guests cannot be forked: their state is in the kernel",
                hint="COPPICE_ACCELERATOR=tcg, or fork VMMs before they have a VM: sharing started",
            )
        identity = allocate(run.leases, run.id)
        with preload(template.cache, gated=started) as (line, preloaded):
            guest = self._empty(run, template, identity, Sharing.MAPPED, tap, preloaded)
            preloaded.socket.close()
            try:
                if not started:
                    guest.awaken(BOOT_LIMIT_S)
                    PREPARATIONS["tcg"].rehearse_for_forks(guest, BOOT_LIMIT_S)
                source = template.checkpoint if started else None
                yield replace(template, zygote=Zygote(guest, line, tap, source))
            finally:
                guest.destroy()

    def _boot(
        self,
        run: Run,
        image: GuestImage,
        shape: Shape,
        identity: Identity,
        memory: Path | None = None,
        tap: int | None = None,
    ) -> QemuSandbox:
        name = f"coppice-{identity.id}"
        end = self._slots.acquire()
        try:
            with (
                opened(image.kernel, image.initramfs) as (kernel, initramfs),
                opened(*_given(memory), write=True) as written,
                packets.opened(shape.accelerator, tap) as vhost,
            ):

                def argv(ends: Descriptors) -> Sequence[str]:
                    return arguments(
                        shape, name, ends, memory=inherited(written[0]) if written else None,
                        share=memory is not None, tap=tap, vhost=vhost, kernel=inherited(kernel),
                        initramfs=inherited(initramfs),
                    )  # fmt: skip

                jail = jail_for(run, identity, shape)
                if jail and written:
                    jail.lend(written[0])
                given = [kernel, initramfs, *written, *_given(tap), *_given(vhost)]
                vmm = spawn(run, name, argv, incoming=False, given=given, jail=jail)
        except BaseException:
            end()
            raise
        return QemuSandbox(vmm, identity, VmState.BOOTING, on_booted=end)

    def _empty(
        self,
        run: Run,
        template: QemuTemplate,
        identity: Identity,
        sharing: Sharing,
        tap: int | None,
        preloaded: Preload | None = None,
    ) -> QemuSandbox:
        """A VMM that waits for device state, with guest memory mapped."""
        name = f"coppice-{identity.id}"
        sealed = template.checkpoint
        assert sealed
        merged, copied = sharing is Sharing.MERGED, sharing is Sharing.PRIVATE
        with contextlib.ExitStack() as until_spawned:
            if copied:
                memory = until_spawned.enter_context(sealed.private_memory())
            else:
                (memory,) = until_spawned.enter_context(opened(sealed.memory))
            moved = packets.opened(template.accelerator, tap)
            vhost = until_spawned.enter_context(moved)

            def argv(ends: Descriptors) -> Sequence[str]:
                return arguments(
                    template.shape, name, ends,
                    memory=inherited(memory), share=copied, populate=copied, mergeable=merged,
                    tap=tap, vhost=vhost,
                )  # fmt: skip

            given = [memory, *_given(tap), *_given(vhost)]
            given += [preloaded.descriptor] if preloaded else []
            vmm = spawn(
                run, name, argv, incoming=True, given=given,
                through=template.mergeable if merged else None,
                environment=preloaded.environment if preloaded else None,
                jail=jail_for(run, identity, template.shape, huge_pages=False),
                zygote=preloaded.library if preloaded else None,
            )  # fmt: skip
        backing = f"/memfd:{checkpoints.COPY}" if copied else str(sealed.memory)
        guest = QemuSandbox(vmm, identity, VmState.EMPTY, sealed, guest_memory=backing)
        if not (preloaded and preloaded.gated):
            with destroyed_on_failure(guest):
                _greeted(guest)
        return guest

    # The checkpoint.

    def _sealed(self, run: Run, cache: Path, image: GuestImage, shape: Shape) -> Checkpoint:
        built_from: dict[str, Scalar] = {
            "image": image.sha256,
            **shape.facts(),
            **shape.of_host,
            **PREPARATIONS[shape.accelerator].facts(),
        }

        def fill(directory: Path) -> None:
            observed = self._seal(run, image, shape, directory)
            checkpoints.complete(directory, built_from, observed, shape.processor)

        directory = entry(checkpoints.path_for(cache, built_from), fill)
        return checkpoints.load(directory, built_from, shape.processor)

    def _seal(
        self, run: Run, image: GuestImage, shape: Shape, directory: Path
    ) -> Mapping[str, Scalar]:
        """Boot a guest whose memory is a file, warm it up, stop it, save its device state; what it
        says of itself."""
        memory = directory / checkpoints.MEMORY
        guest = retry_stalled_boot(lambda: self._booted(run, image, shape, memory))
        try:
            observed = guest_facts.observed(guest)
            PREPARATIONS[shape.accelerator].sealing.run(guest)
            guest.agent.write_file(SEAL, b"written before the checkpoint")
            arm_and_stop(guest)
            arrival.report_progress(guest.qmp, arrival.IGNORE_SHARED)
            _save_devices(guest, directory / checkpoints.DEVICES)
            while (status := guest.qmp.wait_status(SAVE_LIMIT_S)) != "completed":
                if status == "failed":
                    raise SandboxError(
                        f"{guest.vmm.name} could not be checkpointed: {guest.vmm.stderr_tail()}"
                    )
            return {**observed, **guest_facts.at_the_doorbell(guest)}
        finally:
            guest.destroy()

    def _booted(
        self, run: Run, image: GuestImage, shape: Shape, memory: Path | None = None
    ) -> QemuSandbox:
        """A guest that has booted, perhaps with its memory in a file."""
        if memory:
            with memory.open("wb") as file:
                # Reserve the space: a full disk fails here instead of as SIGBUS in the VMM.
                os.posix_fallocate(file.fileno(), 0, shape.memory_mib * MIB)
        guest = self._boot(run, image, shape, allocate(run.leases, run.id), memory)
        with destroyed_on_failure(guest):
            guest.vmm.greeting(30)
            await_boot(guest, BOOT_LIMIT_S)
        return guest

    def _facts(self, run: Run, cache: Path, image: GuestImage, shape: Shape) -> Image:
        """What a guest that boots says of itself: it has no checkpoint with that."""
        return guest_facts.of_booted(
            cache,
            {"image": image.sha256, **shape.facts()},
            lambda: retry_stalled_boot(lambda: self._booted(run, image, shape)),
            has_doorbell=shape.line == "virtio",
        )


def _save_devices(guest: QemuSandbox, target: Path) -> None:
    """Have the VMM send its device state, and write it to a file.

    It goes through a socket: since 11.0 QEMU refuses the descriptor of a file, and the file: that
    it wants instead is not known before 8.2.
    """
    ours, theirs = socket.socketpair()
    with ours, target.open("wb") as file:
        with theirs:
            guest.vmm.send_descriptor("devices", theirs.fileno())
        guest.qmp.execute("migrate", uri="fd:devices")
        ours.settimeout(SAVE_LIMIT_S)
        while piece := ours.recv(1 << 20):
            file.write(piece)


def _given(value: T | None) -> Sequence[T]:
    return [] if value is None else [value]


def _greeted(guest: QemuSandbox) -> None:
    """An empty VMM is ready to load device state when this returns."""
    guest.vmm.greeting(30)
    arrival.report_progress(guest.qmp, arrival.IGNORE_SHARED)
    arrival.announce_nothing(guest.qmp)

"""A microVM with a disk, and a channel to envd beside the agent's.

It uses the VMM arguments, agent, doorbell and zygote of the rigs' substrate (harness/sandbox/qemu),
and adds the disk, a second serial port, and a way to save a microVM that runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness import paths
from harness.errors import GuestTimeout, SandboxError
from harness.gateway import stages
from harness.gateway.fleets import disk, saved_vm
from harness.gateway.fleets.adoption import start_ticks
from harness.gateway.fleets.disk import BaseDisk
from harness.gateway.fleets.overlays import Overlays
from harness.gateway.fleets.saved_vm import SavedVm
from harness.gateway.stages import reached
from harness.guest.image import Addition, GuestImage
from harness.guest.protocol import RING_ANSWER_LENGTH
from harness.host.identity import Identity, allocate
from harness.host.memory import in_memory
from harness.host.run import Run
from harness.measure.record import Scalar
from harness.sandbox.lifetime import destroyed_on_failure
from harness.sandbox.qemu import arrival, packets
from harness.sandbox.qemu.boot_retry import await_boot, retry_stalled_boot
from harness.sandbox.qemu.jail import Jail, jail_for
from harness.sandbox.qemu.machine import Descriptors, Shape, arguments
from harness.sandbox.qemu.qmp import Qmp
from harness.sandbox.qemu.sandbox import QemuSandbox
from harness.sandbox.qemu.vmm import inherited, opened, spawn
from harness.sandbox.qemu.zygote import Preload, Zygote
from harness.sandbox.vm_state import VmState

GUEST = paths.ENVD
ENVD = Addition("envd", GUEST, ("frame.c",), ("virtio_blk", "ext4"))
MEMORY_MIB = 512
CACHE_MIB = 256
"""Of TCG's translation cache, of which only what is translated takes memory. When it is full, all
is translated anew: a shell, Python and its usual modules take 80 MiB."""
BOOT_LIMIT_S = 300.0
RESUME_LIMIT_S = 30.0
PORT, DEVICE = "/dev/vport0p2", "/dev/vda"
# The devices of a saved VM lack the configuration section of a migration stream.
_LOADING = ("-global", "migration.send-configuration=off", "-S")


@dataclass(frozen=True)
class MicroVmSpec:
    """What all microVMs of a gateway are made from."""

    run: Run
    image: GuestImage
    shape: Shape
    overlays: Overlays

    @property
    def facts(self) -> Mapping[str, Scalar]:
        return {"image": self.image.sha256, "disk": self.base.sha256, **self.shape.facts()}

    @property
    def base(self) -> BaseDisk:
        return self.overlays.base


class MicroVm:
    """`envd` is our end of the channel to envd; `came_from` is the memory file that it maps."""

    def __init__(
        self,
        spec: MicroVmSpec,
        guest: QemuSandbox,
        envd: socket.socket,
        came_from: str,
        tap: int | None,
    ) -> None:
        self.id = guest.id
        self.identity = guest.identity
        self.guest = guest
        self.envd = envd
        self.came_from = came_from
        self.tap = tap
        self.start_ticks = start_ticks(self.pid)
        self.made = time.monotonic()
        self.envd_descriptor = -1
        """The number of the channel to envd in the VMM."""
        self.disk_descriptors: Sequence[int] = ()
        """The numbers with which the VMM has its overlay open; known once a fork has asked."""
        self.on_end: Callable[[], object] = bool
        """Releases what its fleet has attached to it."""
        self._spec = spec

    @property
    def pid(self) -> int:
        return self.guest.vmm.process.pid

    @property
    def overlay(self) -> Path:
        """What it has written to its disk."""
        return self._spec.overlays.file(self.id)

    @property
    def channels(self) -> Sequence[socket.socket]:
        """Our ends of its channels, in the order that `adopt` expects."""
        vmm = self.guest.vmm
        return (vmm.agent, vmm.qmp.channel, vmm.control, vmm.bell, self.envd)

    @property
    def stopped(self) -> bool:
        return self.guest.stopped

    def alive(self) -> bool:
        return self.guest.vmm.process.poll() is None

    def stop(self, on_armed: Callable[[], object] = bool) -> None:
        """Stop it at its doorbell: there it can be saved, and resumes fastest. `on_armed` is called
        once it waits there."""
        self.guest.arm()
        on_armed()
        self.guest.stop()

    def resume(self) -> None:
        """Resume it with the current time; returns once it has answered a nonce."""
        self.guest.awaken(RESUME_LIMIT_S, dated=True)

    async def resume_on_loop(self) -> None:
        """`resume` on the event loop. Raises GuestTimeout, GuestDied, WrongAnswer."""
        loop = asyncio.get_running_loop()
        answered, bell, answer = loop.create_future(), self.guest.vmm.bell, bytearray()

        def read() -> None:
            piece = bell.recv(64)
            answer.extend(piece)
            if not answered.done() and (not piece or len(answer) >= RING_ANSWER_LENGTH):
                answered.set_result(None)

        bell.setblocking(False)
        loop.add_reader(bell, read)
        try:
            self.guest.ring_and_continue(dated=True)
            async with asyncio.timeout(RESUME_LIMIT_S):
                await answered
        except TimeoutError as error:
            if stopped := self.guest.vmm.stopped_by_kvm():
                raise stopped from error
            raise GuestTimeout(f"{self.guest.vmm.name} did not answer the doorbell") from error
        except OSError as error:
            raise self.guest.vmm.died() from error
        finally:
            loop.remove_reader(bell)
        self.guest.accept_answer(bytes(answer))

    def save(self, target: Path) -> None:
        """Save it; it must be stopped and stays so. Raises SandboxError and DiskFull."""
        with self._saving(target) as directory:
            saved_vm.save_memory(self.pid, self.came_from, directory / saved_vm.MEMORY)

    def save_booted(self, target: Path) -> None:
        """`save` for a microVM that `boot` made: its memory file is complete."""
        with self._saving(target) as directory:
            saved_vm.copy_sparse(Path(self.came_from), directory / saved_vm.MEMORY)

    @contextlib.contextmanager
    def _saving(self, target: Path) -> Iterator[Path]:
        spec, key = self._spec, self.guest.agent.key
        with saved_vm.writing(target, spec.facts, key, spec.shape.processor) as directory:
            # Stopping it made the VMM finish its disk requests, so the overlay is complete.
            target_file = directory / saved_vm.DEVICES
            with saved_vm.disk_full_named(target_file), target_file.open("wb") as devices:
                with self.guest.vmm.lent(devices.fileno()) as path:
                    self.guest.vmm.qmp.execute("xen-save-devices-state", filename=path, live=False)
            saved_vm.copy_sparse(self.overlay, directory / saved_vm.DISK)
            yield directory
            reached(stages.WRITTEN)

    def destroy(self) -> None:
        """End it and remove what it had; safe to call twice."""
        self.guest.destroy()
        self.envd.close()
        self._spec.overlays.set_aside(self.id)
        self.on_end()


@contextlib.contextmanager
def _opened_disk(spec: MicroVmSpec, overlay: Path) -> Iterator[list[int]]:
    """The descriptors of the image and the overlay, which is also open for reading alone: QEMU
    takes the descriptor that has the access it wants."""
    with opened(spec.base.path, overlay) as read, opened(overlay, write=True) as written:
        yield [*read, *written]


def _arguments(spec: MicroVmSpec, disks: Sequence[int], envd: int) -> Sequence[str]:
    base, read, written = disks
    return (
        "-add-fd", f"fd={base},set=1",
        "-add-fd", f"fd={read},set=2", "-add-fd", f"fd={written},set=2",
        *disk.vmm_arguments(replace(spec.base, path=Path("/dev/fdset/1")), "/dev/fdset/2"),
        "-no-reboot",  # the VMM exits when its guest panics
        "-chardev", f"socket,id=envd,fd={envd}",
        "-device", "virtserialport,chardev=envd,name=envd,nr=2",
    )  # fmt: skip


@contextlib.contextmanager
def _envd_channel() -> Iterator[tuple[socket.socket, socket.socket]]:
    our_end, vmm_end = socket.socketpair()
    for end in (our_end, vmm_end):
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            end.setsockopt(socket.SOL_SOCKET, option, 1 << 20)
    with vmm_end:
        try:
            yield our_end, vmm_end
        except BaseException:
            our_end.close()
            raise


def boot(spec: MicroVmSpec, memory: Path) -> MicroVm:
    """A microVM that has booted; its memory is a shared mapping of a file."""
    return retry_stalled_boot(lambda: _boot(spec, allocate(spec.run.leases, spec.run.id), memory))


def _boot(spec: MicroVmSpec, identity: Identity, memory: Path) -> MicroVm:
    overlay = spec.overlays.new(identity.id)
    with saved_vm.disk_full_named(memory), memory.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, spec.shape.memory_mib << 20)
    with (
        _envd_channel() as (our_end, vmm_end),
        opened(spec.image.kernel, spec.image.initramfs) as (kernel, initramfs),
        opened(memory, write=True) as (shared,),
        _opened_disk(spec, overlay) as disks,
    ):

        def argv(descriptors: Descriptors) -> Sequence[str]:
            common = arguments(
                spec.shape, f"coppice-{identity.id}", descriptors, memory=inherited(shared),
                share=True, kernel=inherited(kernel), initramfs=inherited(initramfs), ports=2,
            )  # fmt: skip
            return (*common, *_arguments(spec, disks, vmm_end.fileno()))

        jail = _jail(spec, identity)
        if jail:
            jail.lend(shared)
        vmm = spawn(
            spec.run, f"coppice-{identity.id}", argv, incoming=False, jail=jail, bounded_log=True,
            given=[vmm_end.fileno(), kernel, initramfs, shared, *disks],
        )  # fmt: skip
        guest = QemuSandbox(vmm, identity, VmState.BOOTING, guest_memory=str(memory))
        vm = MicroVm(spec, guest, our_end, str(memory), None)
    with destroyed_on_failure(vm):
        guest.vmm.greeting(30)
        await_boot(guest, BOOT_LIMIT_S)
        done = guest.agent.run(("/bin/envd", PORT, DEVICE), timeout_s=60)
        if done.code:
            stderr = done.stderr.decode(errors="replace").strip()
            raise SandboxError(f"envd did not start: {stderr}")
    return vm


def restore(
    spec: MicroVmSpec,
    source: SavedVm,
    identity: Identity,
    tap: int | None = None,
    preloaded: Preload | None = None,
) -> MicroVm:
    """A microVM restored from a saved one, stopped at its doorbell; `resume` it next."""
    overlay = spec.overlays.new(identity.id, source.disk)
    with (
        _envd_channel() as (our_end, vmm_end),
        opened(source.memory) as (memory,),
        _opened_disk(spec, overlay) as disks,
        packets.opened(spec.shape.accelerator, tap) as vhost,
    ):

        def argv(descriptors: Descriptors) -> Sequence[str]:
            common = arguments(
                spec.shape, f"coppice-{identity.id}", descriptors, memory=inherited(memory),
                tap=tap, vhost=vhost, ports=2, cache_mib=CACHE_MIB,
            )  # fmt: skip
            return (*common, *_arguments(spec, disks, vmm_end.fileno()), *_LOADING)

        vmm = spawn(
            spec.run, f"coppice-{identity.id}", argv, incoming=True,
            given=[
                vmm_end.fileno(), memory, *disks,
                *(each for each in (tap, vhost) if each is not None),
                *([preloaded.descriptor] if preloaded else []),
            ],
            environment=preloaded.environment if preloaded else None,
            jail=_jail(spec, identity, huge_pages=False),
            zygote=preloaded.library if preloaded else None, bounded_log=True,
        )  # fmt: skip
        guest = QemuSandbox(
            vmm, identity, VmState.EMPTY, _Devices(source.devices),
            guest_memory=str(source.memory), key=source.key, on_loaded=lambda: _activate(vmm.qmp),
        )  # fmt: skip
        vm = MicroVm(spec, guest, our_end, str(source.memory), tap)
        vm.envd_descriptor = vmm_end.fileno()
    with destroyed_on_failure(vm):
        vmm.greeting(30)
        arrival.report_progress(vmm.qmp)
    return vm


def _activate(qmp: Qmp) -> None:
    """Allow a VMM that has loaded its devices to write to its disk.

    Since QEMU 10.0, `cont` on QMP does this when it starts a guest. We continue guests through the
    gdb stub, which does not, and the VMM aborts at the first write.
    """
    if qmp.version >= (10, 0):
        qmp.execute("blockdev-set-active", active=True)


def fork(
    spec: MicroVmSpec, zygote: Zygote, source: MicroVm, identity: Identity, tap: int | None
) -> MicroVm:
    """A fork of a stopped microVM's VMM, with channels, network interface and disk of its own;
    `resume` it next.

    The source stays stopped, so what its VMM caches of the overlay is true of the copy too.
    """
    overlay = spec.overlays.new(identity.id, source.overlay)
    with contextlib.ExitStack() as opened:
        undo = opened.enter_context(contextlib.ExitStack())
        undo.callback(spec.overlays.remove, identity.id)
        our_end, vmm_end = opened.enter_context(_envd_channel())
        handle = os.open(overlay, os.O_RDWR | os.O_CLOEXEC)
        opened.callback(os.close, handle)
        if not source.disk_descriptors:
            source.disk_descriptors = _descriptors_of(source.pid, source.overlay)
        others = [(number, handle) for number in source.disk_descriptors]
        others.append((source.envd_descriptor, vmm_end.fileno()))
        guest = zygote.fork(spec.run, identity, tap, others)
        undo.pop_all()
    return MicroVm(spec, guest, our_end, source.came_from, tap)


def _descriptors_of(pid: int, path: Path) -> Sequence[int]:
    """The descriptors with which a process has a file open; others may come and go meanwhile."""
    found, wanted = [], path.stat()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(entry.stat(), wanted):
                found.append(int(entry.name))
    return found


def _jail(spec: MicroVmSpec, identity: Identity, huge_pages: bool = True) -> Jail | None:
    # The largest file that a VMM writes: its overlay, with what the format adds.
    written = (spec.base.size_mib + 256) << 20
    held = written if in_memory(spec.overlays.place.directory) else 0
    return jail_for(spec.run, identity, spec.shape, written, held, huge_pages)


@dataclass(frozen=True)
class _Devices:
    """What QemuSandbox needs of a checkpoint."""

    devices: Path

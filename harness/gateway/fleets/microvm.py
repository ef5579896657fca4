"""A sandbox of the gateway: a microVM with a disk, and envd's line beside the agent's.

What the substrate of the rigs does (harness/sandbox/qemu) does here too: the same VMM arguments,
agent, doorbell and zygote. Added are the disk, a second serial port, and saving one that runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import paths
from harness.errors import GuestTimeout, SandboxError
from harness.gateway.fleets import disk, saved_vm
from harness.gateway.fleets.adoption import born, free_leases
from harness.gateway.fleets.disk import BaseDisk
from harness.gateway.fleets.saved_vm import State
from harness.guest.image import Addition, GuestImage
from harness.guest.protocol import RING_ANSWER_LENGTH
from harness.host.identity import Identity, allocate
from harness.host.run import VARIABLE, Run
from harness.measure.record import Scalar
from harness.sandbox.lifetime import destroyed_on_failure
from harness.sandbox.qemu.boot_retry import await_boot, retry_stalled_boot
from harness.sandbox.qemu.machine import Descriptors, Shape, arguments
from harness.sandbox.qemu.qmp import Qmp
from harness.sandbox.qemu.sandbox import QemuSandbox
from harness.sandbox.qemu.vmm import CHANNELS, Process, Vmm, spawn
from harness.sandbox.qemu.zygote import Preload, Zygote
from harness.sandbox.vm_state import VmState

GUEST = paths.ENVD
ENVD = Addition("envd", GUEST, ("frame.c",), ("virtio_blk", "ext4"))
MEMORY_MIB = 512
BOOT_LIMIT_S = 300.0
WAKE_LIMIT_S = 30.0
PORT, DEVICE = "/dev/vport0p2", "/dev/vda"
OWN_DISK = "disk"
# Devices alone, without what a whole migration says before them.
_LOADING = ("-global", "migration.send-configuration=off", "-S")


@dataclass(frozen=True)
class Kit:
    """What every sandbox of one gateway is made with."""

    run: Run
    image: GuestImage
    base: BaseDisk
    shape: Shape

    @property
    def facts(self) -> Mapping[str, Scalar]:
        return {"image": self.image.sha256, "disk": self.base.sha256, **self.shape.facts()}

    def home(self, identity: Identity) -> Path:
        """The directory of one sandbox's own files, in the run's."""
        return self.run.directory / f"sandbox-{identity.id}"


class Machine:
    """One microVM. `envd` is our end of envd's line; `came_from` is what its memory file is."""

    def __init__(
        self, kit: Kit, guest: QemuSandbox, envd: socket.socket, came_from: str, tap: int | None
    ) -> None:
        self.id = guest.id
        self.identity = guest.identity
        self.guest = guest
        self.envd = envd
        self.came_from = came_from
        self.tap = tap
        self.born = born(self.pid)
        self.envd_number = -1
        """Of envd's line in the VMM."""
        self._kit = kit

    @property
    def pid(self) -> int:
        return self.guest.vmm.process.pid

    @property
    def disk(self) -> Path:
        return self._kit.home(self.identity) / OWN_DISK

    @property
    def lines(self) -> Sequence[socket.socket]:
        """Our ends, in the order in which `adopt` takes them."""
        vmm = self.guest.vmm
        return (vmm.agent, vmm.qmp.channel, vmm.control, vmm.bell, self.envd)

    def alive(self) -> bool:
        return self.guest.vmm.process.poll() is None

    def hold(self) -> None:
        """Stop it at its doorbell, where it is saved, and found fastest."""
        self.guest.arm()
        self.guest.stop()

    def wake(self) -> None:
        """Let it run with the wall clock of now: its answer to a nonce is there at the return."""
        self.guest.awaken(WAKE_LIMIT_S, dated=True)

    async def rise(self) -> None:
        """`wake`, on the event loop. Raises GuestTimeout, GuestDied, WrongAnswer."""
        loop = asyncio.get_running_loop()
        heard, bell, answer = loop.create_future(), self.guest.vmm.bell, bytearray()

        def hear() -> None:
            piece = bell.recv(64)
            answer.extend(piece)
            if not heard.done() and (not piece or len(answer) >= RING_ANSWER_LENGTH):
                heard.set_result(None)

        bell.setblocking(False)
        loop.add_reader(bell, hear)
        try:
            self.guest.ring_and_continue(dated=True)
            async with asyncio.timeout(WAKE_LIMIT_S):
                await heard
        except TimeoutError as error:
            raise GuestTimeout(f"{self.guest.vmm.name} did not answer the doorbell") from error
        except OSError as error:
            raise self.guest.vmm.died() from error
        finally:
            loop.remove_reader(bell)
        self.guest.accept_answer(bytes(answer))

    def save(self, target: Path) -> None:
        """Write a held sandbox to a state; it stays held. Raises SandboxError and DiskFull."""
        vmm = self.guest.vmm
        with saved_vm.writing(target, self._kit.facts, self.guest.agent.key) as directory:
            # While it was stopped the VMM wrote what it had not yet: the files are whole.
            vmm.qmp.execute(
                "xen-save-devices-state", filename=str(directory / saved_vm.DEVICES), live=False
            )
            saved_vm.copy_sparse(self.disk, directory / saved_vm.DISK)
            saved_vm.save_memory(self.pid, self.came_from, directory / saved_vm.MEMORY)

    def destroy(self) -> None:
        """End it and remove what it had; safe to call twice."""
        self.guest.destroy()
        self.envd.close()
        _remove_home(self._kit.home(self.identity))


def _words(kit: Kit, own: Path, envd: int) -> Sequence[str]:
    return (
        *disk.words(kit.base, str(own)),
        "-no-reboot",  # a guest that panics is gone, and its VMM with it
        "-chardev", f"socket,id=envd,fd={envd}",
        "-device", "virtserialport,chardev=envd,name=envd,nr=2",
    )  # fmt: skip


@contextlib.contextmanager
def _envd_line() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            end.setsockopt(socket.SOL_SOCKET, option, 1 << 20)
    with theirs:
        try:
            yield ours, theirs
        except BaseException:
            ours.close()
            raise


def boot(kit: Kit, memory: Path) -> Machine:
    """A guest that has booted; its memory is a file, written through."""
    return retry_stalled_boot(lambda: _boot(kit, allocate(kit.run.leases, kit.run.id), memory))


def _boot(kit: Kit, identity: Identity, memory: Path) -> Machine:
    home = kit.home(identity)
    home.mkdir()
    own = home / OWN_DISK
    disk.overlay(kit.base, own)
    with memory.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, kit.shape.memory_mib << 20)
    with _envd_line() as (ours, theirs):

        def words(ends: Descriptors) -> Sequence[str]:
            usual = arguments(
                kit.shape, f"coppice-{identity.id}", ends, memory=memory, share=True,
                kernel=kit.image.kernel, initramfs=kit.image.initramfs, ports=2,
            )  # fmt: skip
            return (*usual, *_words(kit, own, theirs.fileno()))

        vmm = spawn(
            kit.run, f"coppice-{identity.id}", words, incoming=False, inherited=[theirs.fileno()]
        )
        guest = QemuSandbox(vmm, identity, VmState.BOOTING, guest_memory=str(memory))
        machine = Machine(kit, guest, ours, str(memory), None)
    with destroyed_on_failure(machine):
        guest.vmm.greeting(30)
        await_boot(guest, BOOT_LIMIT_S)
        done = guest.agent.run(("/bin/envd", PORT, DEVICE), timeout_s=60)
        if done.code:
            said = done.stderr.decode(errors="replace").strip()
            raise SandboxError(f"envd does not start: {said}")
    return machine


def save_booted(machine: Machine, target: Path, kit: Kit) -> None:
    """Write a held guest that `boot` made to a state; its memory is where it was written to."""
    vmm = machine.guest.vmm
    with saved_vm.writing(target, kit.facts, machine.guest.agent.key) as directory:
        vmm.qmp.execute(
            "xen-save-devices-state", filename=str(directory / saved_vm.DEVICES), live=False
        )
        saved_vm.copy_sparse(machine.disk, directory / saved_vm.DISK)
        saved_vm.copy_sparse(Path(machine.came_from), directory / saved_vm.MEMORY)


def restore(
    kit: Kit,
    source: State,
    identity: Identity,
    tap: int | None = None,
    preloaded: Preload | None = None,
) -> Machine:
    """A guest restored from a state and held at its doorbell; `wake` it next."""
    home = kit.home(identity)
    home.mkdir()
    own = home / OWN_DISK
    saved_vm.copy_sparse(source.disk, own)
    with _envd_line() as (ours, theirs):

        def words(ends: Descriptors) -> Sequence[str]:
            usual = arguments(
                kit.shape, f"coppice-{identity.id}", ends, memory=source.memory, tap=tap, ports=2
            )
            return (*usual, *_words(kit, own, theirs.fileno()), *_LOADING)

        vmm = spawn(
            kit.run, f"coppice-{identity.id}", words, incoming=True,
            inherited=[
                theirs.fileno(),
                *([] if tap is None else [tap]),
                *([preloaded.descriptor] if preloaded else []),
            ],
            environment=preloaded.environment if preloaded else None,
        )  # fmt: skip
        guest = QemuSandbox(
            vmm, identity, VmState.EMPTY, _Devices(source.devices),
            guest_memory=str(source.memory), key=source.key, on_loaded=lambda: _activate(vmm.qmp),
        )  # fmt: skip
        machine = Machine(kit, guest, ours, str(source.memory), tap)
        machine.envd_number = theirs.fileno()
    with destroyed_on_failure(machine):
        vmm.greeting(30)
        vmm.qmp.execute(
            "migrate-set-capabilities", capabilities=[{"capability": "events", "state": True}]
        )
    return machine


def _activate(qmp: Qmp) -> None:
    """Give a VMM that has loaded a state the right to write to its disks.

    Since 10.0 QEMU gives it when QMP's `cont` starts a guest, whatever loaded the state before.
    The gdb stub, which continues ours, does not, and the first write to the disk aborts the VMM.
    """
    if qmp.version >= (10, 0):
        qmp.execute("blockdev-set-active", active=True)


def fork(kit: Kit, zygote: Zygote, source: Machine, identity: Identity, tap: int | None) -> Machine:
    """A copy of a held machine's whole VMM, with lines, a card and a disk of its own; `wake` it.

    The zygote's disk stands still while it is held: what its VMM remembers of it holds for a copy.
    """
    home = kit.home(identity)
    home.mkdir()
    own = home / OWN_DISK
    with contextlib.ExitStack() as opened:
        undo = opened.enter_context(contextlib.ExitStack())
        undo.callback(_remove_home, home)
        saved_vm.copy_sparse(source.disk, own)
        ours, theirs = opened.enter_context(_envd_line())
        handle = os.open(own, os.O_RDWR | os.O_CLOEXEC)
        opened.callback(os.close, handle)
        others = [(number, handle) for number in _numbers_of(source.pid, source.disk)]
        others.append((source.envd_number, theirs.fileno()))
        guest = zygote.fork(kit.run, identity, tap, others)
        undo.pop_all()
    return Machine(kit, guest, ours, source.came_from, tap)


def _numbers_of(pid: int, path: Path) -> Sequence[int]:
    """The open files of a process that are this one."""
    return [
        int(one.name)
        for one in Path(f"/proc/{pid}/fd").iterdir()
        if os.path.realpath(one) == os.path.realpath(path)
    ]


def _remove_home(home: Path) -> None:
    shutil.rmtree(home, ignore_errors=True)


@dataclass(frozen=True)
class _Devices:
    """What QemuSandbox asks of a checkpoint."""

    devices: Path


class AdoptedProcess:
    """A VMM that a former gateway started: no child of ours, so known by a descriptor."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._handle = os.pidfd_open(pid)

    def poll(self) -> int | None:
        return 0 if select.select([self._handle], [], [], 0)[0] else None

    def wait(self, timeout: float | None = None) -> int:
        if not select.select([self._handle], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(f"VMM {self.pid}", timeout or 0)
        return 0

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._handle, signal.SIGKILL)

    def __del__(self) -> None:
        os.close(self._handle)


def adopt(
    kit: Kit, identity: Identity, pid: int, came_from: str, ends: Sequence[socket.socket]
) -> Machine:
    """A running sandbox of a gateway that was killed, from the lines that its keeper kept.

    Raises SandboxError when it does not answer any more.
    """
    process: Process = AdoptedProcess(pid)
    near = dict(
        zip((*CHANNELS, "envd"), (ends[0], ends[1], ends[2], ends[3], ends[4]), strict=True)
    )
    name = f"coppice-{identity.id}"
    vmm = Vmm.of(name, process, near, kit.run.directory / f"{name}.log", Descriptors(0, 0, 0, 0))
    _settle(vmm.qmp)
    guest = QemuSandbox(vmm, identity, VmState.RUNNING, guest_memory=came_from, key=identity.key)
    machine = Machine(kit, guest, near["envd"], came_from, None)
    status = vmm.qmp.execute("query-status")["status"]
    if status == "running":
        with contextlib.suppress(GuestTimeout):
            guest.agent.ping(3)
            return machine
    # It was about to be saved: it waits at its doorbell.
    guest.ring_adopted(WAKE_LIMIT_S)
    return machine


def _settle(qmp: Qmp) -> None:
    """Read past what was answered to a gateway that is gone."""
    qmp.channel.settimeout(5)
    qmp.channel.sendall(b'{"execute":"query-name","id":"adopted"}\n')
    seen = b""
    deadline = time.monotonic() + 5
    while b'"adopted"' not in seen or not seen.endswith(b"\n"):
        piece = qmp.channel.recv(1 << 16)
        if not piece or time.monotonic() > deadline:
            raise SandboxError("a VMM does not answer on QMP")
        seen = seen[-4096:] + piece


def sweep(run: Run, kept: Mapping[str, tuple[Path, int]]) -> int:
    """End the VMMs of a run that are not of these sandboxes, and remove what they had.

    `kept` is by the sandbox's id: the lease of its address, and its process. How many there were.
    """
    pids = [pid for _, pid in kept.values()]
    mark = f"{VARIABLE}={run.directory}".encode()
    ended = 0
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                # Forks are called as their zygote is, so names do not tell them apart.
                vmm = b"\0-name\0coppice-" in (entry / "cmdline").read_bytes()
                if vmm and int(entry.name) not in pids:
                    os.kill(int(entry.name), signal.SIGKILL)
                    ended += 1
    free_leases(run, [lease for lease, _ in kept.values()])
    for home in run.directory.glob("sandbox-*"):
        if home.name.removeprefix("sandbox-") not in kept:
            shutil.rmtree(home, ignore_errors=True)
    return ended

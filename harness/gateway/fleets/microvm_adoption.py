"""MicroVMs of a gateway that was killed: adopted by its successor, or ended."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.errors import GuestTimeout, SandboxError
from harness.gateway.fleets.adoption import free_leases
from harness.gateway.fleets.microvm import RESUME_LIMIT_S, MicroVm, MicroVmSpec
from harness.host.identity import Identity
from harness.host.run import VARIABLE
from harness.sandbox.qemu.jail import adopted as adopted_jail
from harness.sandbox.qemu.jail import sweep as sweep_jails
from harness.sandbox.qemu.machine import Descriptors
from harness.sandbox.qemu.qmp import Qmp
from harness.sandbox.qemu.sandbox import QemuSandbox
from harness.sandbox.qemu.vmm import CHANNELS, Process, Vmm
from harness.sandbox.qemu.vmm_log import BoundedLog
from harness.sandbox.vm_state import VmState


class AdoptedProcess:
    """A VMM that a former gateway started. It is not our child, so a pidfd stands for it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._pidfd = os.pidfd_open(pid)

    def poll(self) -> int | None:
        return 0 if select.select([self._pidfd], [], [], 0)[0] else None

    def wait(self, timeout: float | None = None) -> int:
        if not select.select([self._pidfd], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(f"VMM {self.pid}", timeout or 0)
        return 0

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def __del__(self) -> None:
        os.close(self._pidfd)


def adopt(
    spec: MicroVmSpec,
    identity: Identity,
    pid: int,
    came_from: str,
    channels: Sequence[socket.socket],
) -> MicroVm:
    """A running microVM of a killed gateway, from the channels that the fd holder kept.

    Raises SandboxError when it does not answer any more.
    """
    process: Process = AdoptedProcess(pid)
    ours = dict(zip((*CHANNELS, "envd"), channels, strict=True))
    name = f"coppice-{identity.id}"
    vmm = Vmm.of(
        name, process, ours, BoundedLog.of_process(name, pid), Descriptors(0, 0, 0, 0),
        adopted_jail(spec.run, identity.id),
    )  # fmt: skip
    _skip_stale_replies(vmm.qmp)
    _drain(vmm.bell)
    guest = QemuSandbox(vmm, identity, VmState.RUNNING, guest_memory=came_from, key=identity.key)
    vm = MicroVm(spec, guest, ours["envd"], came_from, None)
    status = vmm.qmp.execute("query-status")["status"]
    if status == "running":
        with contextlib.suppress(GuestTimeout):
            guest.agent.ping(3)
            return vm
        guest.stop()  # or the command to continue would stop it
    # The former gateway was about to save it: it waits at its doorbell.
    _drain(vmm.bell)
    guest.ring_adopted(RESUME_LIMIT_S)
    return vm


def _drain(bell: socket.socket) -> None:
    """Drop what the guest has told the former gateway: it would be taken for the next answer."""
    bell.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while bell.recv(1 << 10):
            pass


def _skip_stale_replies(qmp: Qmp) -> None:
    """Read past the replies to the former gateway."""
    qmp.channel.settimeout(5)
    qmp.channel.sendall(b'{"execute":"query-name","id":"adopted"}\n')
    received = b""
    deadline = time.monotonic() + 5
    while b'"adopted"' not in received or not received.endswith(b"\n"):
        piece = qmp.channel.recv(1 << 16)
        if not piece or time.monotonic() > deadline:
            raise SandboxError("a VMM does not answer on QMP")
        received = received[-4096:] + piece


def sweep(spec: MicroVmSpec, kept: Mapping[str, tuple[Path, int]]) -> int:
    """End the other VMMs of a run and remove their directories and leases; the number of VMMs.

    `kept` has the lease and the PID of each adopted sandbox, by its id.
    """
    run = spec.run
    pids = [pid for _, pid in kept.values()]
    variable = f"{VARIABLE}={run.directory}".encode()
    ended = 0
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and variable in (entry / "environ").read_bytes().split(b"\0"):
                # A fork has its zygote's command line, so the name does not identify a sandbox.
                vmm = b"\0-name\0coppice-" in (entry / "cmdline").read_bytes()
                if vmm and int(entry.name) not in pids:
                    os.kill(int(entry.name), signal.SIGKILL)
                    ended += 1
    sweep_jails(run, kept)
    free_leases(run, [lease for lease, _ in kept.values()])
    spec.overlays.sweep(kept)
    return ended

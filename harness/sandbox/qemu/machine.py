"""The microVM's shape, and the QEMU command line for it.

Few devices: a virtio-serial port for the agent, a UART for the doorbell, a NIC. A checkpoint is
restored into the `Shape` that it was taken from.
"""

from __future__ import annotations

import functools
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.host.process import run
from harness.measure.record import Scalar
from harness.sandbox.qemu.kernel_arguments import line
from harness.sandbox.qemu.packets import netdev
from harness.sandbox.qemu.processor import Processor

PROGRAM = "qemu-system-x86_64"
MICROVM_PROGRAM = "qemu-system-x86_64-microvm"
"""Debian's and Ubuntu's build of the same QEMU for microVMs: KVM alone, 8 libraries instead of 50
and a third of the devices, so that a VMM holds 4 MiB less for itself."""
# An old Intel model: Linux enables workarounds for AMD's K8. arat is a timer that never stops:
# without it the kernel has no high-resolution timers here and ticks 250 times a second.
EMULATED_CPU = "Nehalem,+arat"
# MiB of TCG's translation cache. A boot translates 35 MiB, and TCG starts over when the cache is
# full; a restored guest at work needs 10.
BOOT_CACHE_MIB = 64
RESTORE_CACHE_MIB = 32


@dataclass(frozen=True)
class Shape:
    """The virtual hardware; a checkpoint can only be restored into an equal shape."""

    accelerator: str
    memory_mib: int = 256
    machine: str = "microvm,acpi=on,pit=off,pic=on,rtc=on,isa-serial=on"
    cpu: str = ""
    line: str = "virtio"
    """The agent's channel: virtio, or serial (its UART; there is no doorbell then). The name is
    stored in manifests."""
    quiet_nic: bool = False
    """The NIC never asks a restored guest to announce it, as after a move to another host: that is
    work in the guest, in its caller's time."""
    processor: Processor | None = None
    """What the guest sees of it; None under TCG, where `cpu` and QEMU's version say all."""

    @property
    def cpu_model(self) -> str:
        return self.cpu or ("host" if self.accelerator == "kvm" else EMULATED_CPU)

    @property
    def of_host(self) -> Mapping[str, Scalar]:
        """What a checkpoint that can be built again is bound to besides `facts`."""
        return self.processor.upgradable() if self.processor else {}

    def facts(self) -> Mapping[str, Scalar]:
        """For a checkpoint's manifest and a record's images."""
        hardware = {key: value for key, value in vars(self).items() if key != "processor"}
        if not self.quiet_nic:  # what is already saved does not name it
            del hardware["quiet_nic"]
        return {
            **hardware,
            **(self.processor.identity() if self.processor else {}),
            "cpu": self.cpu_model,
            "qemu": qemu_version(),
            "kernel_arguments": kernel_arguments(self),
            # A build for microVMs restores what the other has written; it is named all the same.
            **({"program": found} if (found := program(self.accelerator)) != PROGRAM else {}),
        }


@functools.cache
def program(accelerator: str) -> str:
    """The name of QEMU's program: the one for microVMs under KVM, where there is one."""
    small = accelerator == "kvm" and shutil.which(MICROVM_PROGRAM)
    return MICROVM_PROGRAM if small else PROGRAM


@functools.cache
def qemu_version() -> str:
    """QEMU's version line; a checkpoint is bound to it."""
    return run(PROGRAM, "--version").decode().splitlines()[0]


@functools.cache
def qemu_release() -> tuple[int, int]:
    """QEMU's major and minor version; (0, 0) when its version line is not understood."""
    found = re.search(r"version (\d+)\.(\d+)", qemu_version())
    return (int(found[1]), int(found[2])) if found else (0, 0)


@functools.cache
def tsc_khz() -> int:
    """Frequency of this host's TSC, which an emulated guest sees unscaled."""
    found = re.search(r"bogomips\s*:\s*([\d.]+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    return round(float(found[1]) * 500) if found else 0


def kernel_arguments(shape: Shape) -> str:
    """The guest kernel's command line."""
    return line(shape.accelerator, tsc_khz=tsc_khz(), serial=shape.line == "serial")


@dataclass(frozen=True)
class Descriptors:
    """The VMM's ends of its channels: descriptors that it inherits."""

    agent: int
    qmp: int
    control: int
    bell: int
    incoming: int | None = None


def arguments(
    shape: Shape,
    name: str,
    ends: Descriptors,
    *,
    memory: Path | None = None,
    share: bool = False,
    mergeable: bool = False,
    populate: bool = False,
    tap: int | None = None,
    vhost: int | None = None,
    kernel: Path | None = None,
    initramfs: Path | None = None,
    ports: int = 1,
    cache_mib: int | None = None,
) -> Sequence[str]:
    """QEMU's argv.

    `memory` is a file that backs guest memory; `share` sends writes to it, `mergeable` lets the
    kernel merge equal pages (KSM), `populate` maps all of it at the start. `tap` is the descriptor
    of the NIC's tap, `vhost` one of vhost-net if that moves its packets. Without `kernel` the VMM
    waits for a checkpoint on the descriptor `ends.incoming`. `ports` is the number of virtio-serial
    ports, `cache_mib` the size of TCG's translation cache where the usual one is too small.
    """
    # Else a file that is only mapped privately would have to be writable (programs/readonly.c).
    reading = "" if share or qemu_release() < (8, 2) else ",readonly=on,rom=off"
    backend = (
        f"memory-backend-file,id=ram,size={shape.memory_mib}M,mem-path={memory},"
        f"share={'on' if share else 'off'},prealloc={'on' if populate else 'off'}{reading}"
        if memory
        else f"memory-backend-ram,id=ram,size={shape.memory_mib}M"
    )
    accelerator = (
        f"tcg,tb-size={cache_mib or (BOOT_CACHE_MIB if kernel else RESTORE_CACHE_MIB)}"
        if shape.accelerator == "tcg"
        else "kvm"
    )
    merge = "on" if mergeable else "off"  # QEMU's default is on
    agent = ["-chardev", f"socket,id=agent,fd={ends.agent}"]
    bell = ["-chardev", f"socket,id=bell,fd={ends.bell}"]
    serial = "agent" if shape.line == "serial" else "bell"
    # A checkpoint has the NIC's state, not its back end.
    plug = [] if tap is None else ["-netdev", netdev(tap, vhost)]
    nic = "virtio-net-device" + (",guest_announce=off" if shape.quiet_nic else "")
    argv = [
        program(shape.accelerator), "-name", name,
        "-nodefaults", "-no-user-config", "-display", "none",
        "-machine", f"{shape.machine},memory-backend=ram,mem-merge={merge}", "-accel", accelerator,
        "-cpu", shape.cpu_model, "-m", f"{shape.memory_mib}M", "-object", backend,
        *agent, *bell, "-serial", f"chardev:{serial}",
        "-device", f"virtio-serial-device,max_ports={ports + 1}",
        *plug, "-device", nic + (",netdev=net" if plug else ""),
        "-chardev", f"socket,id=qmp,fd={ends.qmp}", "-mon", "chardev=qmp,mode=control",
        "-chardev", f"socket,id=control,fd={ends.control}", "-gdb", "chardev:control",
    ]  # fmt: skip
    if shape.line == "virtio":
        argv += ["-device", "virtserialport,chardev=agent,name=coppice"]
    if kernel:
        argv += ["-kernel", str(kernel), "-initrd", str(initramfs)]
        argv += ["-append", kernel_arguments(shape)]
    else:
        argv += ["-incoming", f"fd:{ends.incoming}"]
    return argv

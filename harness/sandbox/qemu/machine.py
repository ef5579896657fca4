"""The microVM's shape and the arguments that give it to QEMU.

Few devices: one virtio-serial line for the agent, one UART for the doorbell, one network card.
Source and destination of a checkpoint must be built from the same `Shape`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.host.process import run

PROGRAM = "qemu-system-x86_64"
# An old Intel without what AMD's K8 makes Linux work around, and with a timer that never stops
# (arat): without it the kernel has no high-resolution timers here and ticks 250 times a second.
EMULATED_CPU = "Nehalem,+arat"
# MiB of TCG's translation cache: a boot translates 35 MiB and would start over when they do not
# fit; a restored guest at work needs 10.
BOOT_CACHE_MIB = 64
RESTORE_CACHE_MIB = 32
HZ = 250  # of Debian's kernels, for lpj
# Each argument saves time at boot or keeps the guest from waking without a reason:
# no console at all; no calibration (tsc_early_khz and lpj are computed below); no self tests; no
# mitigations, which under emulation protect nothing; lock prefixes stay, since every instruction
# that is patched throws translated code away; /dev/mem reaches the local APIC (doorbell.c);
# tracing, quotas, certificates, security modules, hibernation, the battery's clock and disks, which
# this guest does not use, are not initialised; programs start at fixed addresses, since moving a
# new stack costs a flush of the TLB; nobody watches for lock-ups, counts pressure or compacts
# memory; IPv6 comes when asked.
KERNEL_ARGUMENTS = (
    "quiet panic=-1 reboot=t rdinit=/init nokaslr mitigations=off cryptomgr.notests "
    "random.trust_cpu=on i8042.noaux i8042.nokbd i8042.nopnp iomem=relaxed "
    "init_on_alloc=0 tsc=nowatchdog norandmaps lsm= psi=0 cgroup_disable=memory nowatchdog "
    "transparent_hugepage=never ipv6.disable_ipv6=1 nr_cpus=1 noreplace-smp 8250.nr_uarts=1 "
    "initcall_blacklist=init_kprobe_trace,load_system_certificate_list,crypto_kdf108_init,"
    "snapshot_device_init,slab_sysfs_init,init_trace_printk_function_export,init_ima,"
    "init_blk_tracer,init_graph_tracefs,dquot_init,trace_eval_init,trace_events_synth_init,"
    "cmos_init,nvme_core_init,blake2s_mod_init,acpi_thermal_init,init_encrypted"
)


@dataclass(frozen=True)
class Shape:
    """What a microVM is made of; a checkpoint is restored under an equal shape only."""

    accelerator: str
    memory_mib: int = 256
    machine: str = "microvm,acpi=on,pit=off,pic=on,rtc=on,isa-serial=on"
    cpu: str = ""
    line: str = "virtio"
    """What the agent speaks over: virtio, or serial (a UART, and no doorbell then)."""

    @property
    def cpu_model(self) -> str:
        return self.cpu or ("host" if self.accelerator == "kvm" else EMULATED_CPU)

    def facts(self) -> Mapping[str, str | int]:
        """For a checkpoint's manifest and a record's images."""
        return {
            **asdict(self),
            "cpu": self.cpu_model,
            "qemu": qemu_version(),
            "kernel_arguments": kernel_arguments(self),
        }


@functools.cache
def qemu_version() -> str:
    """What the program calls itself; a checkpoint is bound to it."""
    return run(PROGRAM, "--version").decode().splitlines()[0]


@functools.cache
def tsc_khz() -> int:
    """Rate of this host's time-stamp counter, which an emulated guest sees unscaled."""
    found = re.search(r"bogomips\s*:\s*([\d.]+)", Path("/proc/cpuinfo").read_text())
    return round(float(found[1]) * 500) if found else 0


def kernel_arguments(shape: Shape) -> str:
    """The guest kernel's command line."""
    argv = KERNEL_ARGUMENTS
    if shape.accelerator == "tcg" and tsc_khz():
        argv += f" tsc_early_khz={tsc_khz()} lpj={tsc_khz() * 1000 // HZ}"
    return argv + (" coppice.line=ttyS0" if shape.line == "serial" else "")


@dataclass(frozen=True)
class Descriptors:
    """Our sockets' other ends, as numbers that the VMM inherits."""

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
    kernel: Path | None = None,
    initramfs: Path | None = None,
    ports: int = 1,
) -> Sequence[str]:
    """The whole command line of one VMM.

    `memory` backs guest memory with a file, `share` says whether writes go to it, `mergeable`
    whether the kernel may merge it with equal pages, `populate` whether it is mapped whole from the
    start. `tap` is the descriptor of the network card's other end. Without `kernel` the VMM waits
    for a checkpoint on the descriptor `incoming`. There is room for `ports` serial lines.
    """
    backend = (
        f"memory-backend-file,id=ram,size={shape.memory_mib}M,mem-path={memory},"
        f"share={'on' if share else 'off'},prealloc={'on' if populate else 'off'}"
        if memory
        else f"memory-backend-ram,id=ram,size={shape.memory_mib}M"
    )
    accelerator = (
        f"tcg,tb-size={BOOT_CACHE_MIB if kernel else RESTORE_CACHE_MIB}"
        if shape.accelerator == "tcg"
        else "kvm"
    )
    merge = "on" if mergeable else "off"  # QEMU's default is on: a host that merges would merge us
    agent = ["-chardev", f"socket,id=agent,fd={ends.agent}"]
    bell = ["-chardev", f"socket,id=bell,fd={ends.bell}"]
    serial = "agent" if shape.line == "serial" else "bell"
    # A checkpoint knows the card, not what it is plugged into.
    plug = [] if tap is None else ["-netdev", f"tap,id=net,fd={tap},vhost=off"]
    argv = [
        PROGRAM, "-name", name, "-nodefaults", "-no-user-config", "-display", "none",
        "-machine", f"{shape.machine},memory-backend=ram,mem-merge={merge}", "-accel", accelerator,
        "-cpu", shape.cpu_model, "-m", f"{shape.memory_mib}M", "-object", backend,
        *agent, *bell, "-serial", f"chardev:{serial}",
        "-device", f"virtio-serial-device,max_ports={ports + 1}",
        *plug, "-device", "virtio-net-device" + (",netdev=net" if plug else ""),
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

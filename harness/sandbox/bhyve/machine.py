"""The microVM's shape, and the bhyve command lines for it.

Few devices: a host bridge, the LPC bridge with com1 for the agent, a NIC if there is a tap. A
checkpoint is restored into the `Shape` that it was taken from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

VNODE_RESTORE = "snapshot.vnode_restore=true"
EXITS = {
    0: "the guest rebooted",
    1: "the guest powered off",
    2: "the guest halted",
    3: "the guest ended in a triple fault",
    4: "bhyve ended in an error",
}
"""bhyve's exit codes. A reboot is 0: a guest that has gone has not necessarily failed."""


@dataclass(frozen=True)
class Shape:
    """The virtual hardware; a checkpoint can only be restored into an equal shape.

    `boot` is how the kernel is loaded: bhyveload, or bootrom.
    """

    memory_mib: int = 256
    cpus: int = 1
    boot: str = "bhyveload"

    def facts(self) -> Mapping[str, str | int]:
        """For a checkpoint's manifest and a record's images."""
        return asdict(self)


@dataclass(frozen=True)
class Drive:
    """Paths of a bootrom, and of the disk that it boots from."""

    bootrom: str
    disk: str


def create(name: str) -> Sequence[str]:
    return ["bhyvectl", f"--vm={name}", "--create"]


def destroy(name: str) -> Sequence[str]:
    return ["bhyvectl", f"--vm={name}", "--destroy"]


def suspend(name: str, memory: str) -> Sequence[str]:
    """Save the guest to `memory`, `memory`.kern and `memory`.meta, and end it."""
    return ["bhyvectl", f"--vm={name}", f"--suspend={memory}"]


def load(shape: Shape, name: str, stage: str) -> Sequence[str]:
    """Load a FreeBSD kernel and its memory disk; `stage` is the directory that the loader sees as
    its file system."""
    return ["bhyveload", "-m", f"{shape.memory_mib}M", "-c", "/dev/null", "-h", stage, name]


def arguments(
    shape: Shape,
    name: str,
    *,
    tap: int | None = None,
    mac: str = "",
    drive: Drive | None = None,
    restore: str = "",
    share: bool = False,
) -> Sequence[str]:
    """bhyve's argv; com1 is its stdin and stdout.

    -H -A -P: exit to the host on HLT, ACPI tables, exit on PAUSE; without them a process that was
    stopped and continued sometimes stays stuck. `restore` is a checkpoint's memory file; `share`
    maps it instead of reading it.
    """
    argv = ["bhyve", "-H", "-A", "-P", "-u", "-w"]
    argv += ["-c", str(shape.cpus), "-m", f"{shape.memory_mib}M"]
    argv += ["-s", "0,hostbridge"]
    if drive:
        argv += ["-s", f"2,virtio-blk,{drive.disk},ro"]
    if tap is not None:
        argv += ["-s", f"3,virtio-net,tap{tap}" + (f",mac={mac}" if mac else "")]
    argv += ["-s", "31,lpc", "-l", "com1,stdio"]
    if drive:
        argv += ["-l", f"bootrom,{drive.bootrom}"]
    if restore:
        argv += ["-o", VNODE_RESTORE] if share else []
        argv += ["-r", restore]
    return [*argv, name]


def ending(code: int | None) -> str:
    """What an exit code of bhyve means, in English."""
    if code is None:
        return "bhyve still runs"
    if code < 0 or code > 128:
        return f"bhyve was killed by signal {-code if code < 0 else code - 128}"
    return EXITS.get(code, f"bhyve ended with the unexpected exit code {code}")

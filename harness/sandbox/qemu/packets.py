"""Who moves a guest's packets between its NIC and its tap: vhost-net in the kernel, or QEMU.

Under KVM a guest's packets go past QEMU where the host has vhost-net, as on hosts that people run.
Under emulation QEMU moves them: it runs the guest anyway. A VMM has no devices in its root, so it
inherits the opened device. The record names the one that did, and why.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.measure.record import Image
from harness.measure.used_images import use
from harness.sandbox import manifest

DEVICE = Path("/dev/vhost-net")
_GET_FEATURES = 0x8008AF00
VHOST, QEMU = "vhost-net", "QEMU"


@dataclass(frozen=True)
class Mover:
    """`by` is vhost-net or QEMU, `reason` why."""

    by: str
    reason: str

    def as_record(self) -> Image:
        facts = {"moved_by": self.by, "reason": self.reason}
        return Image("packets", manifest.name_of(facts), facts)


def examine(device: Path = DEVICE) -> Mover:
    """Who moves packets of guests under KVM on this host."""
    try:
        handle = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        return Mover(QEMU, f"{device} cannot be opened: {error.strerror}")
    try:
        return _asked(handle, device)
    finally:
        os.close(handle)


def _asked(handle: int, device: Path) -> Mover:
    try:
        fcntl.ioctl(handle, _GET_FEATURES, bytes(struct.calcsize("Q")))
    except OSError as error:
        return Mover(QEMU, f"{device} is no vhost-net: {error.strerror}")
    return Mover(VHOST, f"{device} opens")


@contextlib.contextmanager
def opened(accelerator: str, tap: int | None) -> Iterator[int | None]:
    """A descriptor of vhost-net for a VMM with this tap to inherit; None where QEMU moves its
    packets, or it has no tap. What was chosen is noted for the record."""
    if tap is None:
        yield None
        return
    mover, handle = Mover(QEMU, f"the guest runs under {accelerator}"), -1
    if accelerator == "kvm":
        mover = examine(DEVICE)
    with contextlib.ExitStack() as stack:
        if mover.by == VHOST:
            handle = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
            stack.callback(os.close, handle)
        use(mover.as_record())
        yield handle if handle >= 0 else None


def netdev(tap: int, vhost: int | None) -> str:
    """The value of QEMU's -netdev. With vhost-net it is that or an error, never QEMU instead."""
    moved = "vhost=off" if vhost is None else f"vhost=on,vhostforce=on,vhostfd={vhost}"
    return f"tap,id=net,fd={tap},{moved}"

"""Sandboxes for tests: launched from the cache of measurements, destroyed on every way out."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

from harness.guest.protocol import Decoder, Frame
from harness.host.run import Run, cache_folder
from harness.sandbox.identity import allocate
from harness.sandbox.protocol import Tier
from harness.sandbox.qemu import QemuSubstrate
from harness.sandbox.qemu.sandbox import QemuSandbox
from harness.sandbox.qemu.substrate import QemuTemplate

AWAKE_S = 60


@contextlib.contextmanager
def launched(
    run: Run,
    tier: Tier,
    template: QemuTemplate | None = None,
    substrate: QemuSubstrate | None = None,
) -> Iterator[QemuSandbox]:
    """A sandbox as its tier keeps it, not awake yet."""
    substrate = substrate or QemuSubstrate()
    template = template or substrate.prepare(run, cache_folder(), tier)
    guest = substrate.launch(run, template, tier, allocate(run.leases, run.id))
    try:
        yield guest
    finally:
        guest.destroy()


def borrowed_cache(target: Path, *kept: str) -> Path:
    """A cache of a test's own that shares the slow parts (`kept`) of the user's cache."""
    target.mkdir(parents=True, exist_ok=True)
    for name in kept:
        if (cache_folder() / name).exists():
            (target / name).symlink_to(cache_folder() / name)
    return target


def frames_until(line: socket.socket, count: int, wanted: set[int], limit_s: float) -> list[Frame]:
    """Frames from a line until `count` of the `wanted` kinds came; TimeoutError after `limit_s`."""
    decoder = Decoder()
    found: list[Frame] = []
    line.settimeout(limit_s)
    while sum(frame.kind in wanted for frame in found) < count:
        found.extend(decoder.feed(line.recv(1 << 16)))
    return found

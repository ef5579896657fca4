"""envd in a container: built as its first process, with usage from the container's cgroup."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

from harness.gateway.envd.client import Envd
from harness.gateway.fleets.microvm import GUEST
from harness.guest.image import AGENT, COMPILE
from harness.host.cache import entry
from harness.host.cgroups import Usage
from harness.host.process import run

MEMORY_MIB = 512


class ContainerEnvd(Envd):
    """The kernel's counters are host-wide, so usage comes from the container's cgroup."""

    usage: Callable[[], Usage]
    start_ticks: float

    async def stats(self) -> str:
        """Usage in the format of a guest with a kernel of its own."""
        text = await super().stats()
        disk = next((line for line in text.splitlines() if line.startswith("disk ")), "")
        used = self.usage()
        ticks = os.sysconf("SC_CLK_TCK")
        lived = time.clock_gettime(time.CLOCK_BOOTTIME) * ticks - self.start_ticks
        busy = int(used.processor_s * ticks)
        free = (MEMORY_MIB << 10) - (used.memory - used.cache >> 10)
        return (
            f"cpu {busy} 0 0 {max(int(lived) - busy, 0)}\n"
            f"MemTotal: {MEMORY_MIB << 10} kB\nMemAvailable: {free} kB\n"
            f"Cached: {used.cache >> 10} kB\n{disk}\n"
        )


def build(cache: Path) -> Path:
    """The program, from the cache or compiled now."""
    sources = [*sorted(GUEST.glob("*.c")), AGENT / "frame.c"]
    inputs = hashlib.sha256(" ".join(COMPILE).encode())
    for path in (*sources, *sorted(GUEST.glob("*.h")), AGENT / "frame.h"):
        inputs.update(path.name.encode() + b"\0" + path.read_bytes())
    target = cache / "agents" / inputs.hexdigest()

    def compile(directory: Path) -> None:
        run("musl-gcc", *COMPILE, f"-I{AGENT}", "-o", directory / "agent", *sources)

    return entry(target, compile) / "agent"

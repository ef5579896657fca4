"""A sandbox's use of processor, memory and disk, read from its kernel on request."""

from __future__ import annotations

import re
import time

from harness.errors import CoppiceError
from harness.gateway.sandboxes.sandbox import Sandbox
from harness.gateway.timestamps import utc_text

# A guest may report anything: numbers are at most 18 digits long.
_NUMBER = re.compile(r"\b[0-9]{1,18}\b")
_MEMORY = re.compile(r"^(\w{1,40}):\s+([0-9]{1,15}) kB", re.M)
_DISK = re.compile(r"^disk ([0-9]{1,18}) ([0-9]{1,18})$", re.M)


async def sample(sandbox: Sandbox, disk_mib: int) -> None:
    """Add a sample to a sandbox's usage, unless it is paused or does not answer."""
    if sandbox.envd is None or sandbox.envd.gone:
        return
    try:
        text = await sandbox.envd.stats()
    except (CoppiceError, TimeoutError):
        return
    now = time.time()
    memory = {name: int(kib) * 1024 for name, kib in re.findall(_MEMORY, text)}
    first_line = text.split("\n", 1)[0]
    ticks = [int(count) for count in re.findall(_NUMBER, first_line.partition(" ")[2])]
    idle, total = sum(ticks[3:5]), sum(ticks)
    busy_before, total_before = sandbox.cpu_ticks
    busy = total - idle
    share = (busy - busy_before) / max(total - total_before, 1)
    sandbox.cpu_ticks = (busy, total)
    disk = re.search(_DISK, text)
    all_memory = memory.get("MemTotal", 0)
    sandbox.usage.append(
        {
            "timestamp": utc_text(now),
            "timestampUnix": int(now),
            "cpuCount": 1,
            "cpuUsedPct": round(100 * share, 2),
            "memTotal": all_memory,
            "memUsed": all_memory - memory.get("MemAvailable", 0),
            "memCache": memory.get("Cached", 0),
            "diskTotal": int(disk[1]) if disk else disk_mib << 20,
            "diskUsed": int(disk[2]) if disk else 0,
        }
    )

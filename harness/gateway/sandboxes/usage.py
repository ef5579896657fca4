"""A sandbox's use of processor, memory and disk, read from its kernel on request."""

from __future__ import annotations

import re
import time

from harness.errors import CoppiceError
from harness.gateway.sandboxes.sandbox import Sandbox
from harness.gateway.timestamps import utc_text


async def sample(sandbox: Sandbox, disk_mib: int) -> None:
    """Add a sample to a sandbox's usage, unless it is paused or does not answer."""
    if sandbox.envd is None or sandbox.envd.gone:
        return
    try:
        text = await sandbox.envd.stats()
    except (CoppiceError, TimeoutError):
        return
    now = time.time()
    memory = {name: int(kib) * 1024 for name, kib in re.findall(r"^(\w+):\s+(\d+) kB", text, re.M)}
    first_line = text.split("\n", 1)[0]
    ticks = [int(count) for count in re.findall(r"\d+", first_line.partition(" ")[2])]
    idle, total = sum(ticks[3:5]), sum(ticks)
    busy_before, total_before = sandbox.cpu_ticks
    busy = total - idle
    share = (busy - busy_before) / max(total - total_before, 1)
    sandbox.cpu_ticks = (busy, total)
    disk = re.search(r"^disk (\d+) (\d+)", text, re.M)
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

"""What a sandbox uses, as its own kernel counts it: asked for when somebody wants to know."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime

from harness.errors import CoppiceError
from harness.gateway.sandboxes.entries import Entry


async def sample(entry: Entry, disk_mib: int) -> None:
    """Add one sample to a sandbox's usage, unless it is paused or does not answer."""
    if entry.envd is None or entry.envd.gone:
        return
    try:
        text = await entry.envd.stats()
    except (CoppiceError, TimeoutError):
        return
    now = time.time()
    memory = {name: int(kib) * 1024 for name, kib in re.findall(r"^(\w+):\s+(\d+) kB", text, re.M)}
    ticks = [int(one) for one in re.findall(r"\d+", text.split("\n", 1)[0].partition(" ")[2])]
    idle, total = sum(ticks[3:5]), sum(ticks)
    busy_before, total_before = entry.ticks
    busy = total - idle
    share = (busy - busy_before) / max(total - total_before, 1)
    entry.ticks = (busy, total)
    disk = re.search(r"^disk (\d+) (\d+)", text, re.M)
    all_memory = memory.get("MemTotal", 0)
    entry.usage.append(
        {
            "timestamp": datetime.fromtimestamp(now, UTC).isoformat().replace("+00:00", "Z"),
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

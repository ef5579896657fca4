"""A generator of this machine: a worker of dask.distributed in a process of its own.

    python -m harness.load.generator_process SCHEDULER DIRECTORY

`DIRECTORY` has the certificate by which scheduler and generators know each other.

It ends with its scheduler, which lives in the process that started it. It is not watched over by a
nanny: a generator that was killed must not come back.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

import dask
from distributed import Worker

from harness.load import loopback_tls

SETTINGS = {
    "distributed.worker.profile.enabled": False,  # a thread that would wake every 10 ms
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
    "distributed.admin.system-monitor.disk": False,
    "distributed.admin.system-monitor.gil.enabled": False,
    "distributed.diagnostics.nvml": False,
}


async def serve(scheduler: str, directory: str) -> None:
    known = loopback_tls.security(Path(directory)) if scheduler.startswith("tls:") else None
    async with Worker(
        scheduler,
        nthreads=1,
        host="127.0.0.1",
        dashboard=False,
        local_directory=directory,
        memory_limit=0,
        death_timeout=60,
        security=known,
    ) as worker:
        await worker.finished()


if __name__ == "__main__":
    # The control side decides when a storm ends, also after Ctrl-C in its terminal.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with dask.config.set(SETTINGS):
        asyncio.run(serve(*sys.argv[1:]))

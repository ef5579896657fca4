"""A harness process for tests to kill: `owner.py PHASE` says READY when it has reached it."""

from __future__ import annotations

import subprocess
import sys
import time

from harness.host.run import cache_folder, open_run
from harness.sandbox.identity import allocate
from harness.sandbox.pool import Pool
from harness.sandbox.protocol import Tier
from harness.sandbox.qemu import QemuSubstrate

TIER = Tier.DURABLE_PREWARM_POOL


def main(phase: str) -> None:
    substrate = QemuSubstrate()
    with open_run() as run:
        template = substrate.prepare(run, cache_folder(), TIER)
        pool = Pool(
            lambda: substrate.launch(run, template, TIER, allocate(run.leases, run.id)),
            2,
            refill=phase == "refilling",
        )
        with pool:
            if phase == "launching":
                print("READY", run.folder, flush=True)
            pool.fill()
            if phase == "mounted":
                point = run.folder / "mounted here"
                point.mkdir()
                subprocess.run(["mount", "-t", "tmpfs", "tmpfs", point], check=True)
            if phase in ("out", "refilling"):
                pool.check_out().awaken(30)
            print("READY", run.folder, flush=True)
            time.sleep(120)


if __name__ == "__main__":
    main(sys.argv[1])

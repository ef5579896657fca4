"""A program of test_kvm_taken_away.py: VMMs before and after /dev/kvm goes away in a run.

In a mount namespace of its own, whose /dev is a copy: the host's is untouched. Prints a line for
each: confinement, when, and what came of it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from harness.errors import CoppiceError
from harness.host.session import open_run
from harness.sandbox.qemu.examination import examine
from harness.sandbox.qemu.machine import Shape

DEVICE = Path("/dev/kvm")


def main(level: str, runtime: Path) -> None:
    os.environ["COPPICE_CONFINEMENT"] = level
    held = DEVICE.stat().st_rdev
    with open_run(runtime) as run:
        for when in ("before", "after"):
            try:
                examine(run, Shape("kvm", cpu="host,-arch-capabilities"))
                print(level, when, "ran", flush=True)
            except CoppiceError as error:
                print(level, when, " ".join(str(error).split()), flush=True)
            DEVICE.unlink(missing_ok=True)
    os.mknod(DEVICE, 0o20666, held)


for each in ("full", "none"):
    main(each, Path(sys.argv[1], each))

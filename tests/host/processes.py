"""Starts, kills and finds harness processes for tests."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]

QEMU_POOL = """
import sys, time
from contextlib import nullcontext
from harness.host.session import open_run
from harness.paths import cache_directory
from harness.host.identity import allocate
from harness.sandbox.pool import Pool
from harness.sandbox.protocol import Sharing, Tier, load

phase = sys.argv[1]
forked = phase == "forked"
sharing = Sharing.FORKED if forked else Sharing.MAPPED
qemu, tier = load("qemu"), Tier.DURABLE_PREWARM_POOL
with open_run() as run:
    template = qemu.prepare(run, cache_directory(), tier)
    if forked and template.accelerator != "tcg":
        print("cannot be forked")
        sys.exit()
    launch = lambda: qemu.launch(run, kept, tier, allocate(run.leases, run.id), sharing)
    standing = qemu.zygote(run, template) if forked else nullcontext(template)
    with standing as kept, Pool(launch, 2) as pool:
        if phase == "launching":
            print(run.directory, flush=True)
        pool.fill()
        if phase == "out":
            pool.check_out().awaken(60)
        print(run.directory, flush=True)
        while True:
            time.sleep(1)
"""
"""Makes two sandboxes and hangs; prints its run's directory in the given phase."""

HOLD_A_RUN = """
import sys, time
from harness.host.session import open_run
with open_run() as run:
    print(run.directory, flush=True)
    time.sleep(600)
"""


def start(script: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a Python script whose stdout can be read."""
    argv = [sys.executable, "-c", script, *arguments]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=ROOT, encoding="utf-8")


def next_line(process: subprocess.Popen[str]) -> str:
    """The next line that a process prints."""
    assert process.stdout
    return process.stdout.readline().strip()


def coppice(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command `coppice` as a separate process, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "harness", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
    )


def carrying(text: str) -> list[int]:
    """PIDs of other processes with a text in their environment or arguments.

    It does not use the code under test.
    """
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                held = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
                if text.encode() in held:
                    found.append(int(entry.name))
    return found


def eventually(what: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until a condition is true."""
    deadline, pause = time.monotonic() + seconds, 0.01
    while not what():
        assert time.monotonic() < deadline, f"not true after {seconds:g} s"
        time.sleep(pause)
        pause = min(pause * 1.5, 0.1)  # frequent polling would slow down what it waits for


def what_is_there(runtime: Path) -> list[str]:
    """Everything in the runtime directory except the directory of leases."""
    return sorted(str(path) for path in runtime.rglob("*") if path.name != "leases")

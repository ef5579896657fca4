"""A simulated host reboot: what of a sandbox survives it.

A separate process makes a sandbox, in a runtime directory on a tmpfs, as /run is. The process is
killed with everything it started; the tmpfs is unmounted, which fails as long as anything uses it;
the page cache is dropped. Then another sandbox is made from what is on disk.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from harness.errors import CoppiceError, SandboxError
from harness.host import leftovers
from harness.host.process import run as run_program
from harness.host.session import open_run
from harness.paths import cache_directory, runtime_directory
from harness.procedures.columns import (
    TIMEOUT_S,
    Column,
    Stand,
    awake,
    kernel_of,
    nic_count,
    processes_under,
)
from harness.procedures.nested_host import nested_host
from harness.sandbox.base import SEAL
from harness.sandbox.protocol import Tier

PATIENCE_S = 10.0


@dataclass(frozen=True)
class RebootOutcome:
    """What the sandbox made after the reboot reports.

    `own_kernel` and `release`: the kernel that it runs on. `nics`: its NICs without loopback.
    `state`: the state of the sandbox before is there, in the checkpoint if the tier has one.
    `writes`: what was written last, after any checkpoint, is there too. `seconds`: from the request
    to its first reply, with cold caches.
    """

    own_kernel: bool
    release: str
    nics: int
    state: bool
    writes: bool
    seconds: float


def simulate_reboot(column: Column) -> RebootOutcome:
    """Make a sandbox, simulate a power loss, make another, and examine it. Needs root."""
    with _volatile() as runtime:
        mark = os.fspath(leftovers.mark_of(runtime.parent))
        _run_until_killed(column, runtime)
        _power_off(runtime)
        with open_run(runtime) as run, ExitStack() as stack:
            stand = Stand(run, cache_directory(), column, stack, 1)
            began = time.perf_counter()
            with awake(stand) as sandbox:
                seconds = time.perf_counter() - began
                own, release = kernel_of(sandbox.agent.hello())
                writes = sandbox.agent.run(["/bin/cat", mark]).code == 0
                sealed = sandbox.agent.run(["/bin/cat", SEAL]).code == 0
                state = sealed if column.tier.restores else writes
                sandbox.agent.run(["/bin/rm", "-f", mark])  # a bare process wrote it here
                return RebootOutcome(own, release, nic_count(sandbox), state, writes, seconds)


@contextlib.contextmanager
def _volatile() -> Iterator[Path]:
    """A runtime directory on a tmpfs until the block ends."""
    with nested_host() as host:
        directory = host / leftovers.RUNTIME
        try:
            _mount(directory)
            yield directory
        finally:
            _power_off(directory, again=False)


def _mount(directory: Path) -> None:
    run_program("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", directory)


def _run_until_killed(column: Column, runtime: Path) -> None:
    """Make a sandbox in another process, which is killed once the sandbox has written its mark."""
    argv = [sys.executable, "-m", __name__, column.substrate, column.tier]
    environment = {**os.environ, "COPPICE_RUNTIME": os.fspath(runtime)}
    with subprocess.Popen(
        argv, env=environment, stdout=subprocess.PIPE, text=True, encoding="utf-8", errors="replace"
    ) as child:
        assert child.stdout
        report = child.stdout.readline()
        child.kill()
    try:
        failure: str | None = json.loads(report)
    except ValueError as error:
        raise SandboxError(
            f"{column} made no sandbox for the simulated reboot",
            hint=f"COPPICE_RUNTIME={runtime} {' '.join(argv[1:])}",
        ) from error
    if failure:
        raise SandboxError(failure)


def _power_off(runtime: Path, *, again: bool = True) -> None:
    """Kill every process that belongs to this directory, and unmount its tmpfs."""
    os.sync()
    deadline = time.monotonic() + PATIENCE_S
    while True:
        for pid in processes_under(runtime):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        leftovers.reclaim(runtime)
        try:
            run_program("umount", runtime)
            break
        except CoppiceError as error:
            if time.monotonic() > deadline:
                raise SandboxError(
                    f"{runtime} is still in use after every process was killed: {error}"
                ) from error
            time.sleep(0.05)
    if again:
        Path("/proc/sys/vm/drop_caches").write_text("1", encoding="utf-8")
        _mount(runtime)


def _make_and_wait(substrate: str, tier: Tier) -> None:
    """Make a sandbox, write a mark in it, report that, and wait to be killed."""
    with open_run() as run, ExitStack() as stack:
        try:
            stand = Stand(run, cache_directory(), Column(substrate, tier), stack, 1)
            with awake(stand) as sandbox:
                mark = leftovers.mark_of(runtime_directory().parent)
                sandbox.agent.write_file(os.fspath(mark), b"here")
                print(json.dumps(None), flush=True)
                time.sleep(TIMEOUT_S)
        except CoppiceError as error:
            print(json.dumps(" ".join(str(error).split())), flush=True)


if __name__ == "__main__":
    _make_and_wait(sys.argv[1], Tier(sys.argv[2]))

"""What of a sandbox outlives its host, tried as near as can be without turning the host off.

A process of its own makes a sandbox, in a runtime directory that is a tmpfs as /run is. It is
killed with all that it started; the tmpfs is unmounted, which fails while anything of it lives; the
file cache is dropped. Then another process makes a sandbox of what lies on disk.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from harness.errors import CoppiceError, SandboxError
from harness.host import leftovers
from harness.host.locks import locking
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
from harness.sandbox.base import SEAL
from harness.sandbox.protocol import Tier

PATIENCE_S = 10.0


@dataclass(frozen=True)
class RebootOutcome:
    """What the sandbox made after the reboot says.

    `own_kernel` and `release`: on whose kernel it runs. `cards` that it sees, the loopback aside.
    `state`: what a sandbox held before is there, by way of its checkpoint where the tier has one.
    `writes`: what was written last, after any checkpoint, is there too. `seconds` from the request
    to its first reply, with nothing of it in memory before.
    """

    own_kernel: bool
    release: str
    nics: int
    state: bool
    writes: bool
    seconds: float


def simulate_reboot(column: Column) -> RebootOutcome:
    """Make a sandbox, take its host's power away, make another, and ask that. Needs root."""
    with _volatile() as runtime:
        mark = os.fspath(leftovers.mark_of(runtime.parent))
        _until_the_power_goes(column, runtime)
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
                sandbox.agent.run(["/bin/rm", "-f", mark])  # a bare process wrote on this host
                return RebootOutcome(own, release, nic_count(sandbox), state, writes, seconds)


@contextlib.contextmanager
def _volatile() -> Iterator[Path]:
    """A runtime directory in memory, open to sandboxes' users. It lies in one that is locked as
    long as this block lasts, so that what a killed run leaves of it is found."""
    above = runtime_directory().parent
    above.mkdir(parents=True, exist_ok=True)
    host = Path(tempfile.mkdtemp(prefix=leftovers.REBOOTED, dir=above))
    with locking(host):
        host.chmod(0o755)
        directory = host / leftovers.RUNTIME
        directory.mkdir()
        try:
            _mount(directory)
            yield directory
        finally:
            _power_off(directory, again=False)
            directory.rmdir()
            host.rmdir()


def _mount(directory: Path) -> None:
    run_program("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", directory)


def _until_the_power_goes(column: Column, runtime: Path) -> None:
    """A sandbox in a process of its own, which is killed when the sandbox has written."""
    words = [sys.executable, "-m", __name__, column.substrate, column.tier]
    environment = {**os.environ, "COPPICE_RUNTIME": os.fspath(runtime)}
    with subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout
        said = child.stdout.readline()
        child.kill()
    try:
        failure: str | None = json.loads(said)
    except ValueError as error:
        raise SandboxError(
            f"{column} made no sandbox that a reboot could be tried on",
            hint=f"COPPICE_RUNTIME={runtime} {' '.join(words[1:])}",
        ) from error
    if failure:
        raise SandboxError(failure)


def _power_off(runtime: Path, *, again: bool = True) -> None:
    """End all that runs by this directory, and take it away with all that it holds in memory."""
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
                raise SandboxError(f"{runtime} is in use after all was killed: {error}") from error
            time.sleep(0.05)
    if again:
        Path("/proc/sys/vm/drop_caches").write_text("1")
        _mount(runtime)


def _hold(substrate: str, tier: Tier) -> None:
    """Make a sandbox, write in it, say so, and wait for the end."""
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
    _hold(sys.argv[1], Tier(sys.argv[2]))

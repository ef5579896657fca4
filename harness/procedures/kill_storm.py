"""SIGKILL at random moments: what is left of a run afterwards, and after `coppice clean`.

A victim is a command of this harness. It is started, killed at a random moment with or without the
processes below it that are the harness's own, and cleaned up after. What is then on the host and
was not there before was left.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil

from harness.errors import SandboxError
from harness.host.leftovers import RUNTIME
from harness.procedures.host_objects import TEMPORARY, Scope, objects

WINDOW_S = 10.0
"""The kill comes at most this long after the start; earlier for a victim that ends sooner."""
GRACE_S = 15.0
"""How long killed processes may take to end. They are big: the kernel frees their memory first."""
ORPHAN_S = 60.0
"""How long a victim's own child may take to notice that its parent is dead, and to clean up."""
COPPICE = (sys.executable, "-P", "-m", "harness.cli")


@dataclass(frozen=True)
class Outcome:
    """One kill. `moment_s` is counted from the victim's start, and `clean_s` is what `clean` took;
    `left` is what stayed on the host after that."""

    victim: str
    moment_s: float
    clean_s: float
    left: Sequence[str]


@dataclass
class Storm:
    """Kills commands that run in a nested host. `scope.nested` is its directory."""

    scope: Scope
    rng: random.Random
    windows: dict[str, float] = field(default_factory=dict)
    """The time until a victim ended by itself, where it ended within the window."""

    @property
    def environment(self) -> Mapping[str, str]:
        """What makes a command run inside the nested host."""
        nested = self.scope.nested
        (nested / TEMPORARY).mkdir(exist_ok=True)
        kept = {name: value for name, value in os.environ.items() if name != "COPPICE_RUN"}
        return {
            **kept,
            "COPPICE_RUNTIME": str(nested / RUNTIME),
            "COPPICE_STATE": str(nested / "state"),
            "TMPDIR": str(nested / TEMPORARY),
        }

    def kill(self, victim: str, argv: Sequence[str]) -> Outcome | None:
        """Start `coppice ARGV` and kill it; None if it ended by itself before its moment."""
        before = self.objects()
        moment = self.rng.uniform(0, self.windows.get(victim, WINDOW_S))
        process = subprocess.Popen(
            [*COPPICE, *argv],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,
        )
        started = time.monotonic()
        try:
            process.wait(moment)
            self.windows[victim] = time.monotonic() - started
            return None
        except subprocess.TimeoutExpired:
            pass
        finally:
            alone = self.rng.random() < 0.5
            children = [] if alone else harness_processes(process.pid)
            for pid in (process.pid, *children):
                _kill(pid)
            process.wait()
        if alone:
            self._await_orphans(victim)
        return Outcome(victim, moment, *self.clean(before))

    def _await_orphans(self, victim: str) -> None:
        """Wait for a rig's process whose parent alone was killed: it ends by itself."""
        _wait(lambda: not self._living_owners(), ORPHAN_S)
        if owners := self._living_owners():
            for pid in owners:
                _kill(pid)
            _wait(lambda: not self._living_owners(), GRACE_S)  # what they made can be removed then
            raise SandboxError(f"{victim} measured on without its parent for {ORPHAN_S:g} s")

    def _living_owners(self) -> Sequence[int]:
        """Processes of the harness that still run in the nested host."""
        mark = os.fsencode(f"COPPICE_RUNTIME={self.scope.nested}/")
        return [pid for pid in psutil.pids() if _is_harness(pid, mark)]

    def objects(self) -> frozenset[str]:
        """What is on the host now."""
        return objects(self.scope)

    def clean(
        self, before: frozenset[str], directories: tuple[Path, ...] = ()
    ) -> tuple[float, Sequence[str]]:
        """The seconds that `coppice clean` takes, and what is left then, also in `directories`."""
        began = time.perf_counter()
        done = subprocess.run(
            [*COPPICE, "clean"],
            env=self.environment,
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
        seconds = time.perf_counter() - began
        if done.returncode:
            return seconds, [f"clean exited with {done.returncode}: {done.stderr[-300:]}"]
        scope = replace(self.scope, directories=directories)
        _wait(lambda: objects(scope) <= before, GRACE_S)
        return seconds, sorted(objects(scope) - before)


def harness_processes(pid: int) -> Sequence[int]:
    """The processes below a process that are the harness's own, without VMMs and containers."""
    try:
        below = psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []
    return [child.pid for child in below if _is_harness(child.pid, b"")]


def _is_harness(pid: int, mark: bytes) -> bool:
    try:
        argv = Path(f"/proc/{pid}/cmdline").read_bytes()
        environ = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False
    python = argv.partition(b"\0")[0] == os.fsencode(sys.executable)
    return python and pid != os.getpid() and mark in environ


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _wait(condition: Callable[[], bool], limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)

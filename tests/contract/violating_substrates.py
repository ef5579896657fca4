"""Substrates that each break one promise. All are the example under examples/ but for one thing."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import time
from collections.abc import Sequence
from typing import Any

import coppice_unshare
from coppice_unshare import UnshareSubstrate

from harness.guest.agent_client import Finished
from harness.host.identity import Identity
from harness.host.requirement import Requirement
from harness.host.run import VARIABLE
from harness.sandbox.protocol import Tier

QUIET: dict[str, Any] = {
    "stdout": subprocess.DEVNULL,
    "stderr": subprocess.DEVNULL,
    "start_new_session": True,
}


class Honest(UnshareSubstrate):
    name = "honest"


class AnswersWithoutComputing(UnshareSubstrate):
    name = "answers-without-computing"

    def launch(self, *args: Any, **options: Any) -> Any:
        sandbox: Any = super().launch(*args, **options)
        sandbox.awaken = lambda timeout_s: time.perf_counter()
        return sandbox


class ForgesItsFirstProcess(UnshareSubstrate):
    name = "forges-its-first-process"

    def launch(self, *args: Any, **options: Any) -> Any:
        sandbox: Any = super().launch(*args, **options)
        sandbox.first_exec = lambda word: Finished(0, 0, b"rehearsal\n", b"")
        return sandbox


class LeaksItsLease(UnshareSubstrate):
    name = "leaks-its-lease"

    def launch(
        self, run: Any, template: Any, tier: Tier, identity: Identity, *args: Any, **options: Any
    ) -> Any:
        elsewhere = dataclasses.replace(identity, lease=identity.lease.with_name("none"))
        return super().launch(run, template, tier, elsewhere, *args, **options)


class LeavesAProcess(UnshareSubstrate):
    """It carries the run, so `coppice clean` would find it; `destroy` does not end it."""

    name = "leaves-a-process"

    def launch(self, run: Any, *args: Any, **options: Any) -> Any:
        sandbox: Any = super().launch(run, *args, **options)
        subprocess.Popen(["sleep", "600"], env=run.environment, **QUIET)
        return sandbox


class LeavesAnOrphan(UnshareSubstrate):
    """`destroy` ends it, but it carries no run: after a crash nothing finds it."""

    name = "leaves-an-orphan"

    def launch(self, run: Any, *args: Any, **options: Any) -> Any:
        sandbox: Any = super().launch(run, *args, **options)
        environment = {name: os.environ[name] for name in os.environ if name != VARIABLE}
        # As a daemon is started: its parent has ended before anything looks.
        shell = ["sh", "-c", "setsid sleep 600 >/dev/null 2>&1 & echo $!"]
        started = subprocess.run(shell, env=environment, capture_output=True, check=True)
        destroy, orphan = sandbox.destroy, [int(started.stdout)]

        def end() -> None:
            while orphan:
                os.kill(orphan.pop(), 9)
            destroy()

        sandbox.destroy = end
        return sandbox


class CannotBeDestroyedTwice(UnshareSubstrate):
    name = "cannot-be-destroyed-twice"

    def launch(self, *args: Any, **options: Any) -> Any:
        sandbox: Any = super().launch(*args, **options)
        destroy, times = sandbox.destroy, iter(range(100))

        def once() -> None:
            if next(times) == 1:
                raise RuntimeError("destroyed twice")
            destroy()

        sandbox.destroy = once
        return sandbox


class SharesItsHostname(UnshareSubstrate):
    name = "shares-its-hostname"

    def launch(self, *args: Any, **options: Any) -> Any:
        before = coppice_unshare.START
        coppice_unshare.START = 'hostname same && exec "$2"'
        try:
            return super().launch(*args, **options)
        finally:
            coppice_unshare.START = before


class ClaimsAKernel(UnshareSubstrate):
    name = "claims-a-kernel"
    own_kernel = True


class TakesNoMemory(UnshareSubstrate):
    name = "takes-no-memory"

    def memory_per_sandbox(self, tier: Tier) -> int:
        return 0


class NamesNoRemedy(UnshareSubstrate):
    name = "names-no-remedy"

    def requirements(self) -> Sequence[Requirement]:
        return [Requirement("luck", False, "none")]

"""A bare process: not a sandbox, but the lower bound of every other figure."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess

import psutil

from harness.host.identity import Identity
from harness.host.run import Run
from harness.sandbox.base import MIB
from harness.sandbox.protocol import Tier
from harness.sandbox.reference.base import ReferenceSubstrate, ReferenceTemplate
from harness.sandbox.shared_kernel import SharedSandbox, SignalFreezer, start_logged


class ProcessSubstrate(ReferenceSubstrate):
    name = "process"
    tiers = (Tier.FULL, Tier.PREWARM_POOL)
    memory_each = 2 * MIB

    def start(
        self, run: Run, template: ReferenceTemplate, identity: Identity, undo: contextlib.ExitStack
    ) -> SharedSandbox:
        child, line, log = start_logged(
            run, f"process-{identity.id}", [template.agent], run.environment, undo
        )
        undo.callback(_end_all, child)
        end = undo.pop_all()
        return SharedSandbox(
            identity, line, end.close, freezer=SignalFreezer(child.pid), output=log.tail
        )


def _end_all(child: subprocess.Popen[bytes]) -> None:
    """Kill the agent and its descendants, which would otherwise survive it."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for descendant in psutil.Process(child.pid).children(recursive=True):
            with contextlib.suppress(ProcessLookupError):
                os.kill(descendant.pid, signal.SIGKILL)
    child.kill()
    child.wait()

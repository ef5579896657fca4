"""bubblewrap: all namespaces and a read-only root."""

from __future__ import annotations

import contextlib

from harness.host.identity import Identity
from harness.host.run import Run
from harness.sandbox.base import MIB
from harness.sandbox.reference.base import ReferenceSubstrate, ReferenceTemplate, run_mark
from harness.sandbox.shared_kernel import SharedSandbox, reap, start_logged

INSIDE = "/run/agent"


class BwrapSubstrate(ReferenceSubstrate):
    name = "bwrap"
    programs = tools = ("bwrap",)
    memory_each = 4 * MIB

    def start(
        self, run: Run, template: ReferenceTemplate, identity: Identity, undo: contextlib.ExitStack
    ) -> SharedSandbox:
        child, line, log = start_logged(
            run,
            f"bwrap-{identity.id}",
            [
                "bwrap", "--unshare-all", "--as-pid-1",
                "--hostname", identity.hostname, "--cap-drop", "ALL",
                "--ro-bind", template.root.path, "/", "--proc", "/proc", "--dev", "/dev",
                "--tmpfs", "/tmp", "--tmpfs", "/run", "--ro-bind", template.agent, INSIDE, INSIDE,
            ],
            {**run.environment, **run_mark(run)},
            undo,
        )  # fmt: skip
        undo.callback(reap, child)
        undo.callback(line.close)  # the agent exits at end of file
        end = undo.pop_all()
        return SharedSandbox(identity, line, end.close, output=log.tail)

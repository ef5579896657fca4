"""A substrate of about 60 lines: the agent in namespaces made by unshare(1)."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import Unsupported
from harness.guest import shared_agent
from harness.host.identity import Identity
from harness.host.requirement import Requirement
from harness.host.run import Run
from harness.measure.record import Image
from harness.sandbox.base import SubstrateBase
from harness.sandbox.protocol import Sharing, Tier
from harness.sandbox.shared_kernel import SharedSandbox, launch_sandbox, reap, start_logged

NAMESPACES = ("--fork", "--kill-child", "--pid", "--mount-proc", "--uts", "--ipc", "--net")
START = 'hostname "$1" && exec "$2"'


@dataclass(frozen=True)
class UnshareTemplate:
    """Built once: the agent that every sandbox runs."""

    agent: Path
    accelerator: str | None = None

    @property
    def images(self) -> Sequence[Image]:
        return [shared_agent.as_record(self.agent)]


class UnshareSubstrate(SubstrateBase):
    name = "unshare"
    tools = ("unshare",)

    def requirements(self) -> Sequence[Requirement]:
        root = os.geteuid() == 0
        needs = [Requirement("root", root, "yes" if root else "no", "run it again with sudo")]
        for program, package in (("unshare", "util-linux"), ("musl-gcc", "musl-tools")):
            path = shutil.which(program)
            remedy = f"apt-get install {package}"
            needs.append(Requirement(program, path is not None, path or "not installed", remedy))
        return needs

    def prepare(self, run: Run, cache: Path, tier: Tier) -> UnshareTemplate:
        for need in self.requirements():
            if not need.satisfied:
                raise Unsupported(f"{need.what}: {need.detail}", hint=need.remedy)
        return UnshareTemplate(shared_agent.build(cache))

    def launch(
        self,
        run: Run,
        template: UnshareTemplate,
        tier: Tier,
        identity: Identity,
        sharing: Sharing = Sharing.MAPPED,
        tap: int | None = None,
    ) -> SharedSandbox:
        def start(undo: contextlib.ExitStack) -> SharedSandbox:
            shell = ("sh", "-c", START, "sh", identity.hostname, str(template.agent))
            argv = ("unshare", *NAMESPACES, *shell)
            name = f"unshare-{identity.id}"
            child, channel, log = start_logged(run, name, argv, run.environment, undo)
            undo.callback(reap, child)
            undo.callback(channel.close)  # the agent ends when its channel does
            return SharedSandbox(identity, channel, undo.pop_all().close, output=log.tail)

        return launch_sandbox(identity, tier, start)

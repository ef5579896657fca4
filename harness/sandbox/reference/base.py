"""What the reference substrates share: one agent, one root, a start on demand."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import Unsupported, UsageError
from harness.guest import rootfs, shared_agent
from harness.guest.rootfs import RootFs
from harness.host import runtime_place
from harness.host.identity import Identity
from harness.host.process import install_command
from harness.host.requirement import Requirement
from harness.host.run import VARIABLE, Run
from harness.measure.record import Image
from harness.sandbox.base import MIB, SubstrateBase
from harness.sandbox.oci.config import check
from harness.sandbox.protocol import Role, Sharing, Tier
from harness.sandbox.shared_kernel import SharedSandbox, launch_sandbox


@dataclass(frozen=True)
class ReferenceTemplate:
    """The smallest root, and the agent that runs in it."""

    root: RootFs
    agent: Path
    accelerator: str | None = None

    @property
    def images(self) -> Sequence[Image]:
        return [self.root.as_record(), shared_agent.as_record(self.agent)]


class ReferenceSubstrate(SubstrateBase):
    """Implements `harness.sandbox.protocol.Substrate` except `start`.

    `programs` are what it runs; where one is missing it is "not measured on this host".
    """

    role = Role.REFERENCE
    programs: Sequence[str] = ()
    memory_each = 16 * MIB

    def requirements(self) -> Sequence[Requirement]:
        lines = [root_requirement(), runtime_place.requirement()]
        for program in (*self.programs, "musl-gcc", "busybox"):
            path = shutil.which(program)
            lines.append(
                Requirement(
                    program, path is not None, path or "not installed", install_command(program)
                )
            )
        return lines

    def memory_per_sandbox(self, tier: Tier) -> int:
        return self.memory_each

    def check(self) -> None:
        """Raise Unsupported for the first requirement that is not met."""
        for need in self.requirements():
            if not need.satisfied:
                raise Unsupported(f"{need.what}: {need.detail}", hint=need.remedy)

    def prepare(self, run: Run, cache: Path, tier: Tier) -> ReferenceTemplate:
        self.check()
        return ReferenceTemplate(rootfs.busybox(cache), shared_agent.build(cache))

    def start(
        self, run: Run, template: ReferenceTemplate, identity: Identity, undo: contextlib.ExitStack
    ) -> SharedSandbox:
        """A sandbox whose agent has been started. `undo` reverts an incomplete start; the sandbox's
        own end takes over its callbacks (`pop_all`)."""
        raise NotImplementedError

    def launch(
        self,
        run: Run,
        template: ReferenceTemplate,
        tier: Tier,
        identity: Identity,
        sharing: Sharing = Sharing.MAPPED,
        tap: int | None = None,
    ) -> SharedSandbox:
        if tap is not None:
            raise UsageError(f"{self.name} takes no tap: reference substrates have no network")

        def start(undo: contextlib.ExitStack) -> SharedSandbox:
            check(identity)
            return self.start(run, template, identity, undo)

        return launch_sandbox(identity, tier, start)


def root_requirement() -> Requirement:
    root = os.geteuid() == 0
    return Requirement("root", root, "yes" if root else "no", "run it again as root, or with sudo")


def run_mark(run: Run) -> Mapping[str, str]:
    """The environment variable that marks an agent as a process of the run."""
    return {VARIABLE: run.environment[VARIABLE]}

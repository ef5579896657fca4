"""What the reference substrates have in common: one agent, one root, started on demand."""

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
from harness.host.identity import Identity
from harness.host.process import install_command
from harness.host.requirement import Requirement
from harness.host.run import VARIABLE, Run
from harness.measure.record import Image
from harness.sandbox.base import SubstrateBase
from harness.sandbox.oci.config import check
from harness.sandbox.protocol import Role, Sharing, Tier
from harness.sandbox.shared_kernel import SharedSandbox, launched

MIB = 1 << 20


@dataclass(frozen=True)
class Reference:
    """A template: the smallest root, and the agent that runs in it."""

    root: RootFs
    agent: Path
    accelerator: str | None = None

    @property
    def images(self) -> Sequence[Image]:
        return [self.root.as_record(), shared_agent.as_record(self.agent)]


class ReferenceSubstrate(SubstrateBase):
    """Implements `harness.sandbox.protocol.Substrate` but for `start`.

    `programs` are what it runs; without one it is "not measured on this host"."""

    role = Role.REFERENCE
    programs: Sequence[str] = ()
    each = 16 * MIB

    def requirements(self) -> Sequence[Requirement]:
        lines = [as_root()]
        for program in (*self.programs, "musl-gcc", "busybox"):
            path = shutil.which(program)
            lines.append(
                Requirement(
                    program, path is not None, path or "not installed", install_command(program)
                )
            )
        return lines

    def memory_per_sandbox(self, tier: Tier) -> int:
        return self.each

    def check(self) -> None:
        """Unsupported, with the first requirement that is not met."""
        for one in self.requirements():
            if not one.satisfied:
                raise Unsupported(f"{one.what}: {one.detail}", hint=one.remedy)

    def prepare(self, run: Run, cache: Path, tier: Tier) -> Reference:
        self.check()
        return Reference(rootfs.busybox(cache), shared_agent.build(cache))

    def start(
        self,
        run: Run,
        template: Reference,
        tier: Tier,
        identity: Identity,
        undo: contextlib.ExitStack,
    ) -> SharedSandbox:
        """A sandbox whose agent was started. `undo` takes down what was put up for it; the sandbox
        ends by it too."""
        raise NotImplementedError

    def launch(
        self,
        run: Run,
        template: Reference,
        tier: Tier,
        identity: Identity,
        sharing: Sharing = Sharing.MAPPED,
        tap: int | None = None,
    ) -> SharedSandbox:
        if tap is not None:
            raise UsageError(f"{self.name} is for comparison and has no network")

        def start(undo: contextlib.ExitStack) -> SharedSandbox:
            check(identity)
            return self.start(run, template, tier, identity, undo)

        return launched(identity, tier, start)


def as_root() -> Requirement:
    root = os.geteuid() == 0
    return Requirement("root", root, "yes" if root else "no", "run it again as root, or with sudo")


def mark(run: Run) -> Mapping[str, str]:
    """The environment of an agent: by it, what a killed run leaves is found."""
    return {VARIABLE: run.environment[VARIABLE]}

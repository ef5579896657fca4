"""A substrate without sandboxes: a rig run against it measures the harness itself."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import GuestDied
from harness.guest.agent_client import Agent, Finished
from harness.host.identity import Identity
from harness.host.requirement import Requirement
from harness.host.run import Run
from harness.measure.record import Image
from harness.sandbox.base import SubstrateBase
from harness.sandbox.protocol import HostProcess, Role, Sharing, Tier


@dataclass(frozen=True)
class NoopTemplate:
    images: Sequence[Image] = ()
    accelerator: str | None = None


class NoopSandbox:
    """Answers at once. It has no guest, and so no agent."""

    def __init__(self, identity: Identity) -> None:
        self.id = identity.id
        self.identity = identity
        self._awake = 0.0

    @property
    def agent(self) -> Agent:
        raise GuestDied("a noop sandbox has no guest")

    @property
    def process(self) -> HostProcess | None:
        return None

    def adopt_identity(self) -> None:
        """No guest; nothing to do."""

    def awaken(self, timeout_s: float) -> float:
        self._awake = time.perf_counter()
        return self._awake

    def first_exec(self, word: str) -> Finished:
        return Finished(0, 0, f"{word}\n".encode(), b"")

    def touch(self, mib: int) -> None:
        """No guest memory; nothing to do."""

    def resumed_at(self) -> float:
        return self._awake

    def arm(self) -> None:
        """No guest; nothing to do."""

    def stop(self) -> None:
        """No guest; nothing to do."""

    def destroy(self) -> None:
        self.identity.release()


class NoopSubstrate(SubstrateBase):
    """Implements `harness.sandbox.protocol.Substrate`."""

    name = "noop"
    tiers = (Tier.DURABLE_PREWARM_POOL,)
    role = Role.CONTROL
    compared = None

    def requirements(self) -> Sequence[Requirement]:
        return [Requirement("nothing", True, "it makes no sandboxes")]

    def memory_per_sandbox(self, tier: Tier) -> int:
        return 0

    def prepare(self, run: Run, cache: Path, tier: Tier) -> NoopTemplate:
        return NoopTemplate()

    def launch(
        self,
        run: Run,
        template: NoopTemplate,
        tier: Tier,
        identity: Identity,
        sharing: Sharing = Sharing.MAPPED,
        tap: int | None = None,
    ) -> NoopSandbox:
        return NoopSandbox(identity)

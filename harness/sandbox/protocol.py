"""What a substrate must offer, so that every rig can drive it.

A substrate makes sandboxes. The protocols fit QEMU, bhyve and shared-kernel sandboxes alike: a
sandbox boots or is restored from a checkpoint on disk, can be stopped and continued, and is spoken
to through an agent on one line. Nothing here says how.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from harness.guest.agent_client import Agent
from harness.host.run import Run
from harness.measure.record import Image
from harness.sandbox.identity import Identity


class Tier(enum.StrEnum):
    """How a sandbox comes to be; the words are those of the design."""

    FULL = "full"
    DURABLE_POOL = "durable-pool"
    DURABLE_PREWARM_POOL = "durable-prewarm-pool"
    PREWARM_POOL = "prewarm-pool"

    @property
    def waits_in_memory(self) -> bool:
        """Whether guests of this tier stand ready before they are asked for."""
        return self in (Tier.DURABLE_PREWARM_POOL, Tier.PREWARM_POOL)


@dataclass(frozen=True)
class Requirement:
    """One line of the doctor: `remedy` is the command that brings what is missing."""

    what: str
    satisfied: bool
    detail: str
    remedy: str | None = None


@runtime_checkable
class Sandbox(Protocol):
    """One sandbox. Whoever made it destroys it, on every way out."""

    id: str
    identity: Identity

    @property
    def agent(self) -> Agent: ...

    def stop(self) -> None:
        """Hold every vCPU or process; memory stays."""

    def resume(self) -> None:
        """Let it run again."""

    def destroy(self) -> None:
        """End it and remove all that it had; safe to call twice."""


class Template(Protocol):
    """What a substrate prepared once: images, and for durable tiers a checkpoint on disk."""

    images: Sequence[Image]
    accelerator: str | None


class Substrate(Protocol):
    """Makes sandboxes. Registered under the entry point group `coppice.substrates`."""

    name: str
    own_kernel: bool
    tiers: Sequence[Tier]
    memory_per_sandbox: int
    """Bytes that one more sandbox takes from the host, estimated from above."""

    def requirements(self) -> Sequence[Requirement]:
        """What this host must have; looks, and changes nothing."""

    def prepare(self, run: Run, cache: Path, tier: Tier) -> Template:
        """Build or find images, and the checkpoint where `tier` needs one. Slow the first time."""

    def launch(self, run: Run, template: Template, tier: Tier, identity: Identity) -> Sandbox:
        """A sandbox of its tier, from nothing; returns when its VMM, jail or container exists."""
